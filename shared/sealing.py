"""What is personal leaves a collector only as ciphertext: compartments sealed by subjects, attachments by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from shared.client import Response
from shared.errors import Refused, Unavailable
from shared.events.types import Attachment
from shared.together import Together

Items = Sequence[Mapping[str, object]]

_MOST_TOGETHER: Final = 50
_CALLS: Final = 2
"""At once: while one waits for its commit, another is on its way."""


class Caller(Protocol):
    """The two calls archiving needs of a ServiceClient."""

    async def post(self, path: str, *, json: object = None) -> Response: ...
    async def put(self, path: str, *, data: bytes | None = None) -> Response: ...


@dataclass(frozen=True, slots=True)
class Compartment:
    """One ciphertext as `subjects` answers it."""

    statement: str
    name: str
    ciphertext: bytes
    key_hash: str


@dataclass(frozen=True, slots=True)
class _Ask:
    items: Items = field(repr=False)
    identifier: Mapping[str, str] = field(repr=False)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def seal(subjects: Caller, controller: str, items: Items, **whom: object) -> tuple[str, list[Compartment]]:
    """`POST /subjects/seal`: the subject and one compartment per item, in the order of the items.

    `whom` is `subject=` or `identifier=`. Refused and Unavailable pass through.
    """
    body = {"controller": controller, **whom, "items": list(items)}
    return _read((await subjects.post("/subjects/seal", json=body)).json(), items)


def _read(answer: Any, items: Items) -> tuple[str, list[Compartment]]:
    try:
        sealed = [
            Compartment(item["statement"], item["compartment"], from_base64url(item["ciphertext"]), item["key_hash"])
            for item in answer["items"]
        ]
        asked = [(item["statement"], item["compartment"]) for item in items]
        if [(part.statement, part.name) for part in sealed] != asked:
            raise Unavailable("subjects")
        return str(answer["subject"]), sealed
    except (KeyError, TypeError, ValueError):
        raise Unavailable("subjects") from None


class SealTogether:
    """Seals for those who come together: one call and one commit cost much the same for one person as for many."""

    def __init__(self, subjects: Caller, controller: str) -> None:
        self._subjects, self._controller = subjects, controller
        self._together = Together[_Ask, Any](self._answers, most=_MOST_TOGETHER, groups=_CALLS)

    async def seal(self, items: Items, identifier: Mapping[str, str]) -> tuple[str, list[Compartment]]:
        """As `seal`. Refused and Unavailable pass through."""
        ask = _Ask(items, identifier)
        answer = await self._together.ask(ask)
        return _read(await self._alone(ask) if answer is None else answer, items)

    async def _answers(self, asks: Sequence[_Ask]) -> list[Any]:
        return [await self._alone(asks[0])] if len(asks) == 1 else await self._several(asks)

    async def _alone(self, ask: _Ask) -> Any:
        body = {"controller": self._controller, "identifier": dict(ask.identifier), "items": list(ask.items)}
        return (await self._subjects.post("/subjects/seal", json=body)).json()

    async def _several(self, asks: Sequence[_Ask]) -> list[Any]:
        body = {
            "controller": self._controller,
            "asks": [{"identifier": dict(ask.identifier), "items": list(ask.items)} for ask in asks],
        }
        try:
            answers: list[Any] = (await self._subjects.post("/subjects/seal/several", json=body)).json()["answers"]
        except Refused:
            # Of one of them; asked for alone, each hears its own.
            return [None for _ in asks]
        except (KeyError, TypeError):
            raise Unavailable("subjects") from None
        if len(answers) != len(asks):
            raise Unavailable("subjects")
        return answers


async def store(ledger: Caller, sealed: Compartment, kind: str, media_type: str = "message/rfc822") -> Attachment:
    """Put a sealed attachment where it is kept, under the hash of its ciphertext, and describe it for its statement."""
    digest = hashlib.sha256(sealed.ciphertext).hexdigest()
    await ledger.put(f"/ledger/attachments/{digest}", data=sealed.ciphertext)
    return Attachment(
        kind=kind,
        media_type=media_type,
        size=len(sealed.ciphertext),
        hash=digest,
        compartment=sealed.name,
        key_hash=sealed.key_hash,
    )
