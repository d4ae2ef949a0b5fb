"""The form: shown with the notice in force, taken once, answered the same for every address."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from fastapi import Request
from fastapi.responses import Response

from services.newsletter import domain, handlers
from services.newsletter.api.front import Front, Parts, agent, hash_of_token, retry_after, sealed_by_statement
from services.newsletter.domain import Asked, Form, Periods, Problem, SignUp
from shared import pages, served_notice
from shared.acceptance import HEADER, Accepted
from shared.contact_points import ContactPoint
from shared.errors import Refused, Unavailable
from shared.events.types import Served
from shared.identifiers import uuid7
from shared.register import Notice, Purpose
from shared.sealing import SealTogether, base64url
from shared.served_notice import ServedNotice, ServedPurpose, new_nonce
from shared.web import language, parse_form, same_origin

SERVED_FOR: Final = timedelta(hours=4)
"""How long a form may stay open: long enough to read everything, short enough for "just now"."""
CLOCKS_APART: Final = timedelta(minutes=2)
TOKEN_BYTES: Final = 32
TOO_MANY: Final = 429

_HERE: Final = Path(__file__).parents[1]
_SHARED: Final = Path(pages.__file__).parent


def form_version() -> str:
    """Which form was live: the first 16 hex digits of SHA-256 over its templates, texts and style."""
    digest = hashlib.sha256()
    for path in (
        _HERE / "pages/form.html",
        _HERE / "texts.de.toml",
        _HERE / "texts.en.toml",
        *(_SHARED / name for name in ("base.html", "parts.html", "style.css")),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a sent form says it had shown, as far as we can tell."""

    token: str
    claims: ServedNotice | None
    verified: bool
    answerable: bool
    """False: the token is ours, but it is too old or its notice is not known; the person is asked to look again."""
    purposes: tuple[Purpose, ...]
    """The boxes that were on the form."""


class FormPage(Front):
    """GET and POST /newsletter."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._notice_key = parts.secrets.notice_key()
        self._notice_keys = parts.secrets.notice_public_keys()
        self._version = form_version()
        self._seal = SealTogether(parts.subjects, parts.speaker.controller)
        self._published: set[str] = set()

    async def _publish(self, notice: Notice) -> None:
        """Before a notice is served for the first time it is stated; a process asks the database once per text."""
        if notice.hash not in self._published:
            await handlers.publish_notice(
                self.parts.db, self.parts.speaker, notice, self.parts.clock(), self.parts.random
            )
            self._published.add(notice.hash)

    def _serve(self, notice: Notice) -> str:
        now = self.parts.clock()
        served = ServedNotice(
            notice=notice.hash,
            language=notice.language,
            purposes=tuple(
                ServedPurpose(choice.purpose, choice.channel, choice.label, default=choice.ticked)
                for choice in notice.choices
            ),
            button=notice.button,
            nonce=new_nonce(self.parts.random(16)),
            issued_at=now,
            expires_at=now + SERVED_FOR,
        )
        return served_notice.issue(*self._notice_key, served)

    def _form(
        self,
        lang: str,
        served: str,
        form: Form | None = None,
        *,
        status: int = 200,
        problems: Sequence[Problem] = (),
        alert: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        notice = self.activity.notice(lang)
        worded = [self._worded(problem, notice, lang) for problem in problems]
        return self.page(
            "form.html",
            lang,
            status=status,
            headers=headers or {},
            notice=notice,
            served=served,
            form=form or Form(),
            problems=worded,
            wrongs={problem["field"]: problem for problem in worded},
            alert=alert,
        )

    def _worded(self, problem: Problem, notice: Notice, lang: str) -> dict[str, str]:
        """A problem in words, with the place on the page that its link in the summary leads to."""
        texts = self.parts.pages.texts(lang)
        keys = [choice.key for choice in notice.choices]
        if problem.field not in keys:
            anchor = "email" if problem.field == "email" else "purpose-1"
            text = texts(f"problem.{problem.field}.{problem.code}")
            return {"field": problem.field, "anchor": anchor, "text": text}
        purpose = next(one for one in self.activity.purposes if one.key == problem.field)
        titles = ", ".join(self.titles([key.split("/", 1) for key in purpose.depends_on], lang))
        return {
            "field": problem.field,
            "anchor": f"purpose-{keys.index(problem.field) + 1}",
            "text": texts(f"problem.purpose.{problem.code}", titles=titles),
        }

    async def show(self, request: Request) -> Response:
        lang = language(request)
        notice = self.activity.notice(lang)
        await self._publish(notice)
        return self._form(lang, self._serve(notice))

    def _shown(self, token: str, now: datetime) -> Shown:
        claims = served_notice.verify(self._notice_keys, token) if token else None
        purposes = tuple(self.activity.purposes)
        if claims is None:
            return Shown(token, None, verified=False, answerable=True, purposes=purposes)
        known = self.register.notice_by_hash(claims.notice)
        fine = known is not None and known.activity == self.activity.id and claims.holds_at(now, CLOCKS_APART)
        boxes = {domain.key_of(box.purpose, box.channel) for box in claims.purposes}
        shown = tuple(purpose for purpose in purposes if purpose.key in boxes)
        return Shown(token, claims, verified=fine, answerable=fine, purposes=shown)

    async def take(self, request: Request) -> Response:
        """A form was sent. The answer is the same for every address; what was typed is never lost."""
        same_origin(request, self.parts.base_url)
        fields = await parse_form(request)
        lang, now = language(request), self.parts.clock()
        shown = self._shown(fields.get("served", [""])[0], now)
        form = Form.read(fields, shown.purposes)
        address, problems = form.checked(shown.purposes)
        notice = self.activity.notice(lang)
        try:
            await self._publish(notice)
            if not shown.answerable or problems or address is None:
                alert = "" if shown.answerable else "expired"
                served = self._served_again(shown, notice)
                return self._form(lang, served, form, status=422, problems=problems, alert=alert)
            self.parts.limits.sign_up(request)
            outcome, accepted = await self._sign_up(request, form, shown, address, lang, now)
            self.count(outcome)
        except Refused as error:
            if error.status != TOO_MANY:
                raise
            served, seconds = self._served_again(shown, notice), int(str(error.facts["retry_after"]))
            return self._form(lang, served, form, status=TOO_MANY, alert="limited", headers=retry_after(seconds))
        except Unavailable as error:
            if notice.hash not in self._published:
                raise
            # Nothing was stored, or it was and the same form counts once: sending it again is safe.
            served, headers = self._served_again(shown, notice), retry_after(error.retry_after)
            return self._form(lang, served, form, status=503, alert="unavailable", headers=headers)
        # In a header, for the page is the same to the byte for every address (ADR 0022).
        signed = self.acceptance(accepted, now)
        return self.page("sent.html", lang, headers={HEADER: signed} if signed else {})

    def _served_again(self, shown: Shown, notice: Notice) -> str:
        """The token for a form that is shown again: its own while it is true of what is shown now, else a new one."""
        true_of_this = shown.verified and shown.claims is not None and shown.claims.notice == notice.hash
        return shown.token if true_of_this else self._serve(notice)

    async def _sign_up(
        self, request: Request, form: Form, shown: Shown, address: ContactPoint, lang: str, now: datetime
    ) -> tuple[Literal["asked", "capped", "again"], list[Accepted]]:
        random, activity = self.parts.random, self.activity
        token = base64url(random(TOKEN_BYTES))
        ticked = [purpose for purpose in shown.purposes if purpose.key in form.ticked]
        asked = tuple(self._asked(ticked, now))
        refused = tuple(self._asked([one for one in shown.purposes if one not in ticked], now))
        confirmation = uuid7(now, random)
        token_hash, claims, notice = hash_of_token(token), shown.claims, activity.notice(lang)
        spoken = claims.language if claims is not None else lang
        # The evidence says who typed what, how and where the answer went. No IP address: the register does not list it.
        evidence: dict[str, object] = {
            "address": address.typed,
            "normalised": address.normalised,
            "language": spoken,
            "token_hash": token_hash.hex(),
            "user_agent": agent(request),
            "form_version": self._version,
        }
        items: list[dict[str, object]] = [
            {"statement": one.statement, "compartment": "evidence", "fields": evidence} for one in asked
        ]
        items.append({"statement": confirmation, "compartment": "brief", "fields": {"token": token}})
        subject, sealed = await self._seal.seal(items, {"kind": address.kind, "value": address.typed})
        periods = Periods(activity)
        sign_up = SignUp(
            request=domain.Request(
                id=uuid7(now, random),
                subject=subject,
                language=spoken,
                notice=claims.notice if claims is not None else notice.hash,
                served=_echo(shown),
                state="open",
                requested_at=now,
                expires_at=periods.expires_at(ticked, now),
                decided_at=None,
                confirmation=confirmation,
                asked=asked,
            ),
            form_key=domain.form_key(claims.nonce if claims else new_nonce(random(16)), subject, form.ticked),
            token_hash=token_hash,
            purge_at=periods.purge_at(ticked, now),
            refused=refused,
        )
        evidences = sealed_by_statement(sealed[:-1])
        cap = self.parts.limits.confirmation_mails
        return await handlers.sign_up(self.parts.db, self.parts.speaker, sign_up, evidences, sealed[-1], cap)

    def _asked(self, purposes: Sequence[Purpose], now: datetime) -> list[Asked]:
        return [Asked(one.id, one.channel, uuid7(now, self.parts.random)) for one in purposes]


def _echo(shown: Shown) -> Served | None:
    """The token as a statement repeats it: whatever came back, and whether it held."""
    if not served_notice.looks_like_a_token(shown.token):
        return None
    return Served(token=shown.token, verified=shown.verified)
