"""What every page stands on: the wiring, the person's language, words and looks."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from fastapi import Request
from fastapi.responses import Response

from services.newsletter.domain import SOURCE, Speaker
from services.newsletter.letters import moment, title_of
from shared import acceptance
from shared.acceptance import Accepted
from shared.client import ServiceClient
from shared.clock import Clock
from shared.database import Database
from shared.events.types import Sealed
from shared.identifiers import Random
from shared.limits import Limits
from shared.metrics import Metrics
from shared.pages import Pages
from shared.sealing import Compartment, base64url
from shared.secrets import Secrets

_MAX_AGENT: Final = 512


@dataclass(frozen=True)
class Parts:
    """What the pages are wired to."""

    db: Database
    speaker: Speaker
    pages: Pages
    subjects: ServiceClient
    marketing: ServiceClient
    secrets: Secrets
    clock: Clock
    random: Random
    base_url: str
    metrics: Metrics
    limits: Limits


class Front:
    """One group of pages over the parts."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.register, self.activity = parts.speaker.register, parts.speaker.activity
        self._acceptance_key = parts.secrets.notice_key()
        self._withdrawals = parts.metrics.counter(
            "withdrawals", "Answers to a withdrawal: marketing had stopped, or was still to", ("answer",)
        )
        for answer in ("stopped", "accepted"):
            self._withdrawals.labels(answer)  # from 0 on, so that the first one is seen to be one more
        self._acts = parts.metrics.counter("acts", "What people did on our pages", ("act",))

    def count(self, act: str) -> None:
        self._acts.labels(act).inc()

    def count_answer(self, answer: str) -> None:
        self._withdrawals.labels(answer).inc()

    def page(
        self,
        template: str,
        lang: str,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        verifies: bool = False,
        **values: Any,
    ) -> Response:
        return self.parts.pages.render(
            template,
            lang,
            status=status,
            headers=headers,
            verifies=verifies,
            brand=self.activity.sender.name,
            **values,
        )

    def acceptance(self, accepted: Sequence[Accepted], at: datetime) -> str:
        """Our signed word for statements that are committed; empty if there are none to sign for."""
        return acceptance.issue(*self._acceptance_key, SOURCE, accepted, at) if accepted else ""

    def when(self, lang: str, at: datetime) -> str:
        return moment(self.parts.pages.texts(lang), at)

    def titles(self, purposes: Sequence[Sequence[str]], lang: str) -> list[str]:
        return [title_of(self.activity, purpose, channel, lang) for purpose, channel in purposes]


def retry_after(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


def sealed_by_statement(parts: Sequence[Compartment]) -> dict[str, Sealed]:
    """Compartments as their statements carry them."""
    return {part.statement: Sealed(ciphertext=base64url(part.ciphertext), key_hash=part.key_hash) for part in parts}


def agent(request: Request) -> str:
    """The browser as it names itself."""
    return request.headers.get("user-agent", "")[:_MAX_AGENT]


def hash_of_token(token: str) -> bytes:
    """How a token in a link is stored and stated: the SHA-256 of its characters as they stand there."""
    return hashlib.sha256(token.encode("utf-8")).digest()
