"""The confirmation: a page that changes nothing, and its button, which confirms once."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from services.newsletter import domain, handlers, store
from services.newsletter.api.front import Front, Parts, agent, hash_of_token, retry_after, sealed_by_statement
from services.newsletter.domain import Confirmation
from services.newsletter.letters import label_of
from services.newsletter.opening import FIELD, opened_at, opening
from shared.acceptance import HEADER
from shared.errors import Refused, Unavailable
from shared.identifiers import uuid7
from shared.sealing import base64url, seal
from shared.web import language, parse_form, same_origin

TOKEN_LENGTH: Final = 43
RECEIPT_KEY_BYTES: Final = 16

Receipt = dict[str, str]
"""`title` of the purpose and `path` of its receipt"""


class ConfirmationPage(Front):
    """GET and POST /newsletter/confirm/{token}."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._keys = parts.secrets.way_out_keys()

    async def _found(self, token: str) -> domain.Request | None:
        return await store.request_by_token(self.parts.db, hash_of_token(token)) if len(token) == TOKEN_LENGTH else None

    def _agreed(self, found: domain.Request) -> list[str]:
        return [label_of(self.register, found.notice, asked) for asked in found.asked]

    def _language(self, request: Request, found: domain.Request) -> str:
        """The language of the sign-up, unless the person switches."""
        return language(request) if "lang" in request.query_params else found.language

    async def show(self, request: Request, token: str) -> Response:
        found = await self._found(token)
        if found is None:
            return self._unknown(request)
        lang, state = self._language(request, found), found.state_at(self.parts.clock())
        if state == "open":
            return await self._question(lang, found, token)
        if state == "confirmed":
            return await self._confirmed_before(lang, found, token, already=True)
        return self._ended(lang, state, found)

    def _receipts(self, lang: str, found: domain.Request, token: str, given: Sequence[str] = ()) -> list[Receipt]:
        """Links to the receipts of what was asked, and of what is given: they open by the token in the mail."""
        titles = self.titles([(one.purpose, one.channel) for one in found.asked], lang)
        paths = [f"/ledger/receipts/{one.statement}?key={token}" for one in found.asked]
        named = list(zip(titles, paths, strict=True))
        by = [
            (title, f"/ledger/receipts/{statement}?key={token}&by={asked.statement}")
            for title, statement, asked in zip(titles, given, found.asked, strict=False)
        ]
        return [{"title": title, "path": path} for title, path in by or named]

    async def _confirmed_before(self, lang: str, found: domain.Request, token: str, *, already: bool) -> Response:
        """Who has withdrawn since is not told that all is well: this link renews nothing."""
        if await store.has_withdrawn(self.parts.db, found.subject):
            return self._ended(lang, "withdrawn", found)
        return await self._confirmed(lang, found, token, already=already)

    async def _confirmed(self, lang: str, found: domain.Request, token: str, *, already: bool) -> Response:
        """Pressed once or twice, the page is the same; what only looks at the link again signs for nothing."""
        accepted, at = ([], None) if already else await store.accepted_of_confirmation(self.parts.db, found.id)
        signed = "" if at is None else self.acceptance(accepted, at)
        headers = {HEADER: signed} if signed else {}
        return self.page(
            "confirmed.html",
            lang,
            headers=headers,
            verifies=True,
            agreed=self._agreed(found),
            already=already,
            acceptance=signed,
            receipts=self._receipts(lang, found, token, await store.given_of(self.parts.db, found.id)),
        )

    async def _question(
        self, lang: str, found: domain.Request, token: str, *, field: str = "", seconds: int = 0
    ) -> Response:
        """The page with the button. It is the first that only one person sees, so it has the sign-up's acceptance."""
        asked = [] if seconds else await store.accepted(self.parts.db, [one.statement for one in found.asked])
        return self.page(
            "confirm.html",
            lang,
            status=503 if seconds else 200,
            headers=retry_after(seconds) if seconds else {},
            agreed=self._agreed(found),
            until=self.when(lang, found.expires_at),
            notice_hash=found.notice,
            unavailable=bool(seconds),
            opened={"name": FIELD, "value": field or opening(self._keys, token, self.parts.clock())},
            acceptance=self.acceptance(asked, found.requested_at),
            receipts=self._receipts(lang, found, token),
        )

    def _ended(self, lang: str, state: str, found: domain.Request | None) -> Response:
        until = self.when(lang, found.expires_at) if found is not None else ""
        return self.page("ended.html", lang, status=404 if found is None else 410, state=state, until=until)

    def _unknown(self, request: Request) -> Response:
        """Who opens many links that we do not know is asked to wait; a link that we know never is."""
        lang = language(request)
        try:
            self.parts.limits.unknown_link(request, "confirmation")
        except Refused as error:
            seconds = int(str(error.facts["retry_after"]))
            headers = retry_after(seconds)
            return self.page("ended.html", lang, status=error.status, headers=headers, state="limited", until="")
        return self._ended(lang, "unknown", None)

    async def take(self, request: Request, token: str) -> Response:
        """The button was pressed. Pressing it twice, or in two tabs, confirms once and says the same."""
        same_origin(request, self.parts.base_url)
        field = await self._field(request)
        found = await self._found(token)
        if found is None:
            return self._unknown(request)
        lang, now = self._language(request, found), self.parts.clock()
        state = found.state_at(now)
        if state == "confirmed":
            return await self._confirmed_before(lang, found, token, already=False)
        if state == "open":
            try:
                ended = await self._confirm(request, found, opened_at(self._keys, token, field, now), now)
            except Unavailable as error:
                return await self._question(lang, found, token, field=field, seconds=error.retry_after)
            if ended is None:
                return self._ended(lang, "unknown", None)
            if ended == "confirmed":
                self.count("confirmed")
            state = ended
        if state == "confirmed":
            return await self._confirmed(lang, found, token, already=False)
        return self._ended(lang, state, found)

    async def _field(self, request: Request) -> str:
        """What our page brings back. Whoever presses without one confirms all the same."""
        try:
            return (await parse_form(request)).get(FIELD, [""])[-1]
        except Refused:
            return ""

    async def _confirm(
        self, request: Request, found: domain.Request, opened: str | None, now: datetime
    ) -> domain.RequestState | None:
        random = self.parts.random
        keys = [random(RECEIPT_KEY_BYTES) for _ in found.asked]
        confirmations = [
            Confirmation(asked, uuid7(now, random), domain.receipt_key_hash(key))
            for asked, key in zip(found.asked, keys, strict=True)
        ]
        welcome = uuid7(now, random)
        evidence = {"user_agent": agent(request)} | ({} if opened is None else {"page_fetched_at": opened})
        items: list[dict[str, object]] = [
            {"statement": one.statement, "compartment": "evidence", "fields": evidence} for one in confirmations
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
            sealed_by_statement(sealed[:-1]),
            sealed[-1],
            now,
        )
