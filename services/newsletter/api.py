"""The front door: the form, the page that confirms, the way out, the keys and notices others check us by.

A GET changes nothing. A POST asks other services first, then commits one transaction, then shows a page.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.newsletter import domain, handlers, store
from services.newsletter.domain import (
    Asked,
    Confirmation,
    Form,
    Periods,
    Problem,
    Scope,
    SignUp,
    Speaker,
    Withdrawal,
)
from services.newsletter.letters import label_of, moment, title_of
from shared import pages, served_notice
from shared.access import open_by_capability, open_to_everyone
from shared.client import ServiceClient
from shared.clock import Clock
from shared.contact_points import ContactPoint
from shared.database import Database
from shared.errors import Refused, Unavailable
from shared.events.types import Sealed, Served
from shared.identifiers import Random, uuid7
from shared.mail import Compartment, base64url, seal
from shared.metrics import Metrics
from shared.pages import Pages
from shared.register import Notice, Purpose
from shared.secrets import Secrets
from shared.served_notice import ServedNotice, ServedPurpose, new_nonce
from shared.way_out import WayOut, open_token, receipt_key
from shared.web import language, parse_form, same_origin

HERE: Final = Path(__file__).parent
SHARED_PAGES: Final = Path(pages.__file__).parent

SERVED_FOR: Final = timedelta(hours=4)
"""How long a form may stay open: long enough to read everything, short enough for "just now"."""
CLOCKS_APART: Final = timedelta(minutes=2)
TOKEN_BYTES: Final = 32
TOKEN_LENGTH: Final = 43
RECEIPT_KEY_BYTES: Final = 16
MAX_AGENT: Final = 512
EFFECT_SECONDS: Final = 2
ONE_CLICK: Final = ("List-Unsubscribe", "One-Click")

PAGES = [Depends(open_to_everyone)]
LINKS = [Depends(open_by_capability)]
READ: Final = ["GET", "HEAD"]

Outcome = Literal["stopped", "accepted"]


def hash_of_token(token: str) -> bytes:
    """How a token of a confirmation mail is stored and stated: the SHA-256 of its characters as they stand there."""
    return hashlib.sha256(token.encode("utf-8")).digest()


def form_version() -> str:
    """Which form was live: the first 16 hex digits of SHA-256 over its templates, texts and style."""
    digest = hashlib.sha256()
    for path in (
        HERE / "pages/form.html",
        HERE / "texts.de.toml",
        HERE / "texts.en.toml",
        *(SHARED_PAGES / name for name in ("base.html", "parts.html", "style.css")),
    ):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _sealed(part: Compartment) -> Sealed:
    return Sealed(ciphertext=base64url(part.ciphertext), key_hash=part.key_hash)


def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")[:MAX_AGENT]


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


class Newsletter:
    """The pages' work: reading, asking others, calling a handler, rendering."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._register, self._activity = parts.speaker.register, parts.speaker.activity
        self._notice_key = parts.secrets.notice_key()
        self._notice_keys = parts.secrets.notice_public_keys()
        self._way_out_keys = parts.secrets.way_out_keys()
        self._form_version = form_version()
        self._published: set[str] = set()
        self._acts = parts.metrics.counter("acts", "What people did on our pages", ("act",))

    # -- pages ---------------------------------------------------------------------------------------------------

    def _page(self, template: str, lang: str, *, status: int = 200, **values: Any) -> Response:
        headers: Mapping[str, str] = values.pop("headers", {})
        return self.parts.pages.render(
            template, lang, status=status, headers=headers, brand=self._activity.sender.name, **values
        )

    def _when(self, lang: str, at: datetime) -> str:
        return moment(self.parts.pages.texts(lang), at)

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
        notice = self._activity.notice(lang)
        worded = [self._worded(problem, notice, lang) for problem in problems]
        return self._page(
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
        purpose = next(one for one in self._activity.purposes if one.key == problem.field)
        titles = ", ".join(self._titles([key.split("/", 1) for key in purpose.depends_on], lang))
        return {
            "field": problem.field,
            "anchor": f"purpose-{keys.index(problem.field) + 1}",
            "text": texts(f"problem.purpose.{problem.code}", titles=titles),
        }

    def _titles(self, purposes: Sequence[Sequence[str]], lang: str) -> list[str]:
        return [title_of(self._activity, purpose, channel, lang) for purpose, channel in purposes]

    # -- the form ------------------------------------------------------------------------------------------------

    async def show_form(self, request: Request) -> Response:
        lang = language(request)
        notice = self._activity.notice(lang)
        await self._publish(notice)
        return self._form(lang, self._serve(notice))

    def _shown(self, token: str, now: datetime) -> Shown:
        claims = served_notice.verify(self._notice_keys, token) if token else None
        purposes = tuple(self._activity.purposes)
        if claims is None:
            return Shown(token, None, verified=False, answerable=True, purposes=purposes)
        known = self._register.notice_by_hash(claims.notice)
        fine = known is not None and known.activity == self._activity.id and claims.holds_at(now, CLOCKS_APART)
        boxes = {domain.key_of(box.purpose, box.channel) for box in claims.purposes}
        shown = tuple(purpose for purpose in purposes if purpose.key in boxes)
        return Shown(token, claims, verified=fine, answerable=fine, purposes=shown)

    async def take_form(self, request: Request) -> Response:
        """A form was sent. The answer is the same for every address; what was typed is never lost."""
        same_origin(request, self.parts.base_url)
        fields = await parse_form(request)
        lang, now = language(request), self.parts.clock()
        shown = self._shown(fields.get("served", [""])[0], now)
        form = Form.read(fields, shown.purposes)
        address, problems = form.checked(shown.purposes)
        notice = self._activity.notice(lang)
        try:
            await self._publish(notice)
            if not shown.answerable or problems or address is None:
                usable = shown.verified and shown.claims is not None and shown.claims.notice == notice.hash
                token = shown.token if usable else self._serve(notice)
                alert = "" if shown.answerable else "expired"
                return self._form(lang, token, form, status=422, problems=problems, alert=alert)
            await self._sign_up(request, form, shown, address, lang, now)
        except Unavailable as error:
            # Nothing was stored, or it was and the same form counts once: sending it again is safe.
            headers = {"Retry-After": str(error.retry_after)}
            again = shown.token if shown.verified else self._serve(notice)
            return self._form(lang, again, form, status=503, alert="unavailable", headers=headers)
        self._acts.labels("asked").inc()
        return self._page("sent.html", lang)

    async def _sign_up(
        self, request: Request, form: Form, shown: Shown, address: ContactPoint, lang: str, now: datetime
    ) -> None:
        random, activity = self.parts.random, self._activity
        token = base64url(random(TOKEN_BYTES))
        ticked = [purpose for purpose in shown.purposes if purpose.key in form.ticked]
        asked = tuple(self._asked(ticked, now))
        refused = tuple(self._asked([one for one in shown.purposes if one not in ticked], now))
        confirmation = uuid7(now, random)
        token_hash = hash_of_token(token)
        # The evidence says who typed what, how and where the answer went. No IP address: the register does not list it.
        evidence: dict[str, object] = {
            "address": address.typed,
            "normalised": address.normalised,
            "language": lang,
            "token_hash": token_hash.hex(),
            "user_agent": _agent(request),
            "form_version": self._form_version,
        }
        items: list[dict[str, object]] = [
            {"statement": one.statement, "compartment": "evidence", "fields": evidence} for one in asked
        ]
        items.append({"statement": confirmation, "compartment": "brief", "fields": {"token": token}})
        subject, sealed = await seal(
            self.parts.subjects,
            self.parts.speaker.controller,
            items,
            identifier={"kind": address.kind, "value": address.typed},
        )
        periods, claims = Periods(activity), shown.claims
        notice = activity.notice(lang)
        sign_up = SignUp(
            request=domain.Request(
                id=uuid7(now, random),
                subject=subject,
                language=claims.language if claims is not None else lang,
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
        by_statement = {part.statement: _sealed(part) for part in sealed[:-1]}
        await handlers.sign_up(self.parts.db, self.parts.speaker, sign_up, by_statement, sealed[-1])

    def _asked(self, purposes: Sequence[Purpose], now: datetime) -> list[Asked]:
        return [Asked(one.id, one.channel, uuid7(now, self.parts.random)) for one in purposes]

    # -- the confirmation ----------------------------------------------------------------------------------------

    async def _found(self, token: str) -> domain.Request | None:
        return await store.request_by_token(self.parts.db, hash_of_token(token)) if len(token) == TOKEN_LENGTH else None

    def _agreed(self, found: domain.Request) -> list[str]:
        return [label_of(self._register, found.notice, asked) for asked in found.asked]

    def _language(self, request: Request, found: domain.Request) -> str:
        """The language of the sign-up, unless the person switches."""
        return language(request) if "lang" in request.query_params else found.language

    async def show_confirmation(self, request: Request, token: str) -> Response:
        found = await self._found(token)
        if found is None:
            return self._ended(language(request), "unknown", None)
        lang, state = self._language(request, found), found.state_at(self.parts.clock())
        if state == "open":
            return self._question(lang, found)
        if state == "confirmed":
            return self._page("confirmed.html", lang, agreed=self._agreed(found), already=True)
        return self._ended(lang, state, found)

    def _question(self, lang: str, found: domain.Request, *, retry_after: int = 0) -> Response:
        return self._page(
            "confirm.html",
            lang,
            status=503 if retry_after else 200,
            headers={"Retry-After": str(retry_after)} if retry_after else {},
            agreed=self._agreed(found),
            until=self._when(lang, found.expires_at),
            notice_hash=found.notice,
            unavailable=bool(retry_after),
        )

    def _ended(self, lang: str, state: str, found: domain.Request | None) -> Response:
        until = self._when(lang, found.expires_at) if found is not None else ""
        return self._page("ended.html", lang, status=404 if found is None else 410, state=state, until=until)

    async def confirm(self, request: Request, token: str) -> Response:
        """The button was pressed. Pressing it twice, or in two tabs, confirms once and says the same."""
        same_origin(request, self.parts.base_url)
        found = await self._found(token)
        if found is None:
            return self._ended(language(request), "unknown", None)
        lang, now = self._language(request, found), self.parts.clock()
        state = found.state_at(now)
        if state == "open":
            try:
                ended = await self._confirm(request, found, now)
            except Unavailable as error:
                return self._question(lang, found, retry_after=error.retry_after)
            if ended is None:
                return self._ended(lang, "unknown", None)
            state = ended
        if state == "confirmed":
            self._acts.labels("confirmed").inc()
            return self._page("confirmed.html", lang, agreed=self._agreed(found), already=False)
        return self._ended(lang, state, found)

    async def _confirm(self, request: Request, found: domain.Request, now: datetime) -> domain.RequestState | None:
        random = self.parts.random
        keys = [random(RECEIPT_KEY_BYTES) for _ in found.asked]
        confirmations = [
            Confirmation(asked, uuid7(now, random), domain.receipt_key_hash(key))
            for asked, key in zip(found.asked, keys, strict=True)
        ]
        welcome = uuid7(now, random)
        items: list[dict[str, object]] = [
            {"statement": one.statement, "compartment": "evidence", "fields": {"user_agent": _agent(request)}}
            for one in confirmations
        ]
        receipts = [
            {"purpose": one.asked.key, "statement": one.statement, "key": base64url(key)}
            for one, key in zip(confirmations, keys, strict=True)
        ]
        items.append({"statement": welcome, "compartment": "brief", "fields": {"receipts": receipts}})
        _, sealed = await seal(self.parts.subjects, self.parts.speaker.controller, items, subject=found.subject)
        return await handlers.confirm(
            self.parts.db,
            self.parts.speaker,
            found,
            uuid7(now, random),
            confirmations,
            {part.statement: _sealed(part) for part in sealed[:-1]},
            sealed[-1],
            now,
        )

    # -- the way out ---------------------------------------------------------------------------------------------

    def _trouble(self, lang: str, kind: str, status: int, again: str | None = None, retry_after: int = 0) -> Response:
        texts = self.parts.pages.texts(lang)
        return self._page(
            "trouble.html",
            lang,
            status=status,
            headers={"Retry-After": str(retry_after)} if retry_after else {},
            title=texts(f"left.{kind}_title"),
            message=texts(f"left.{kind}", email=self._activity.sender.email),
            again={"url": again, "text": texts("left.again")} if again else None,
        )

    async def show_way_out(self, request: Request, token: str) -> Response:
        lang = language(request)
        try:
            way_out = open_token(self._way_out_keys, token)
        except Refused:
            return self._trouble(lang, "unknown", 404)
        return self._page("leave.html", lang, titles=self._titles(way_out.purposes, lang))

    async def take_way_out(self, request: Request, token: str) -> Response:
        """A withdrawal: recorded first, whoever sent it; then the page says whether it has taken effect.

        It needs PostgreSQL and nobody else. A mailbox provider's one click comes from another site by design
        (RFC 8058); the choice on our own page comes from our own page.
        """
        lang = language(request)
        try:
            way_out = open_token(self._way_out_keys, token)
        except Refused:
            return self._trouble(lang, "unknown", 404)
        fields = await parse_form(request)
        one_click = fields.get(ONE_CLICK[0]) == [ONE_CLICK[1]]
        if not one_click:
            same_origin(request, self.parts.base_url)
        asked = "purpose" if one_click else fields.get("scope", ["purpose"])[-1]
        if asked not in {"purpose", "everything"}:
            raise Refused("malformed-form", "The form could not be read. Please open the page and send it again.")
        scope: Scope = "everything" if asked == "everything" else "purpose"
        withdrawal = self._withdrawal(way_out, scope, token, one_click=one_click)
        try:
            done = await handlers.withdraw(
                self.parts.db,
                self.parts.speaker,
                withdrawal,
                hashlib.sha256(token.encode()).digest(),
                self.parts.clock(),
            )
        except Unavailable as error:
            return self._trouble(lang, "unavailable", 503, f"?lang={lang}", error.retry_after)
        if done.statements == withdrawal.statements:
            self._acts.labels("withdrawn").inc()
        outcome, in_transmission = await self._effect(done.statements)
        return self._left(lang, way_out, token, done, outcome, in_transmission)

    def _withdrawal(self, way_out: WayOut, scope: Scope, token: str, *, one_click: bool) -> Withdrawal:
        now, random = self.parts.clock(), self.parts.random
        count = 1 if scope == "everything" else len(way_out.purposes)
        return Withdrawal(
            act=uuid7(now, random),
            subject=way_out.subject,
            scope=scope,
            purposes=way_out.purposes,
            message=way_out.message_id,
            method="one-click" if one_click else "link",
            receipt_key_hash=domain.receipt_key_hash(receipt_key(self._way_out_keys, token)),
            statements=tuple(uuid7(now, random) for _ in range(count)),
        )

    async def _effect(self, statements: Sequence[str]) -> tuple[Outcome, bool]:
        """Whether marketing refuses already, for every one of them; and whether a mail was on its way."""

        async def one(statement: str) -> list[str] | None:
            try:
                answer = await self.parts.marketing.get(
                    f"/marketing/effects/{statement}", params={"wait": EFFECT_SECONDS}, timeout=EFFECT_SECONDS + 1
                )
            except (Unavailable, Refused):
                return None
            return list(answer.json().get("in_transmission", [])) if answer.status == 200 else None

        effects = await asyncio.gather(*(one(statement) for statement in statements))
        seen = [effect for effect in effects if effect is not None]
        return "stopped" if len(seen) == len(effects) else "accepted", any(seen)

    def _left(
        self,
        lang: str,
        way_out: WayOut,
        token: str,
        done: store.Withdrawn,
        outcome: Outcome,
        in_transmission: bool,
    ) -> Response:
        key = base64url(receipt_key(self._way_out_keys, token))
        titles = self._titles(way_out.purposes, lang)
        # Who withdrew everything by this link is told so again, whatever is posted after it.
        named = [""] if done.scope == "everything" else titles
        return self._page(
            "left.html",
            lang,
            headers={"Consent-Effect": outcome},
            outcome=outcome,
            scope=done.scope,
            titles=titles,
            at=self._when(lang, done.at),
            in_transmission=in_transmission,
            receipts=[
                {"title": title, "url": f"{self.parts.base_url}/ledger/receipts/{statement}?key={key}"}
                for title, statement in zip(named, done.statements, strict=True)
            ],
        )

    # -- what others check us by -----------------------------------------------------------------------------------

    def keys(self) -> Response:
        return JSONResponse(served_notice.key_set(self._notice_keys), headers={"Cache-Control": "public, max-age=300"})

    def notice(self, notice_hash: str) -> Response:
        notice = self._register.notice_by_hash(notice_hash)
        if notice is None:
            raise Refused("notice-unknown", "We have published no notice with this hash.", status=404)
        return Response(
            notice.text(),
            media_type="text/plain; charset=utf-8",
            headers={"Content-Language": notice.language, "Cache-Control": "public, max-age=31536000, immutable"},
        )


def _echo(shown: Shown) -> Served | None:
    """The token as a statement repeats it: whatever came back, and whether it held."""
    if not served_notice.looks_like_a_token(shown.token):
        return None
    return Served(token=shown.token, verified=shown.verified)


def router(parts: Parts) -> APIRouter:
    """Routes under /newsletter."""
    newsletter = Newsletter(parts)
    routes = APIRouter(prefix="/newsletter")

    @routes.api_route("", methods=READ, dependencies=PAGES)
    async def show_form(request: Request) -> Response:
        """The form, with the notice in force."""
        return await newsletter.show_form(request)

    @routes.post("", dependencies=PAGES)
    async def take_form(request: Request) -> Response:
        """A sign-up; answered the same whether or not the address is known."""
        return await newsletter.take_form(request)

    @routes.get("/notice-keys", dependencies=PAGES)
    async def notice_keys() -> Response:
        """Public keys of the served-notice token, as a JSON Web Key Set."""
        return newsletter.keys()

    @routes.get("/notices/{notice_hash}", dependencies=PAGES)
    async def notice(notice_hash: str) -> Response:
        """The exact text whose SHA-256 this is."""
        return newsletter.notice(notice_hash)

    @routes.api_route("/confirm/{token}", methods=READ, dependencies=LINKS)
    async def show_confirmation(request: Request, token: str) -> Response:
        """The page with the button. Opening it changes nothing."""
        return await newsletter.show_confirmation(request, token)

    @routes.post("/confirm/{token}", dependencies=LINKS)
    async def confirm(request: Request, token: str) -> Response:
        """The button."""
        return await newsletter.confirm(request, token)

    @routes.api_route("/unsubscribe/{token}", methods=READ, dependencies=LINKS)
    async def show_way_out(request: Request, token: str) -> Response:
        """The choice of what to end. Opening it changes nothing."""
        return await newsletter.show_way_out(request, token)

    @routes.post("/unsubscribe/{token}", dependencies=LINKS)
    async def take_way_out(request: Request, token: str) -> Response:
        """A withdrawal, by the page's button or a mailbox provider's one click (RFC 8058)."""
        return await newsletter.take_way_out(request, token)

    return routes
