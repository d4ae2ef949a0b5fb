"""The way out of every mail: a page with the choice, its button, and the one click of mailbox providers."""

import asyncio
from collections.abc import Sequence
from typing import Final, Literal

from fastapi import Request
from fastapi.responses import Response

from services.newsletter import domain, handlers, store
from services.newsletter.api.front import Front, Parts, hash_of_token, retry_after
from services.newsletter.domain import Scope, Withdrawal
from shared.acceptance import HEADER
from shared.errors import Refused, Unavailable
from shared.identifiers import uuid7
from shared.sealing import base64url
from shared.way_out import WayOut, open_token, receipt_key
from shared.web import language, parse_form, same_origin

EFFECT_SECONDS: Final = 2
ONE_CLICK: Final = ("List-Unsubscribe", "One-Click")

Outcome = Literal["stopped", "accepted"]


class WayOutPage(Front):
    """GET and POST /newsletter/unsubscribe/{token}."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self._keys = parts.secrets.way_out_keys()

    def _trouble(self, lang: str, kind: str, status: int, again: str | None = None, seconds: int = 0) -> Response:
        texts = self.parts.pages.texts(lang)
        return self.page(
            "trouble.html",
            lang,
            status=status,
            headers=retry_after(seconds) if seconds else {},
            title=texts(f"left.{kind}_title"),
            message=texts(f"left.{kind}", email=self.activity.sender.email),
            again={"url": again, "text": texts("left.again")} if again else None,
        )

    def _unknown(self, lang: str) -> Response:
        """No limit here, whoever asks and however often: a person's link may be cut, and a mailbox provider posts the
        withdrawals of all its people from one network."""
        self.parts.limits.unknown_way_out()
        return self._trouble(lang, "unknown", 404)

    async def show(self, request: Request, token: str) -> Response:
        lang = language(request)
        try:
            way_out = open_token(self._keys, token)
        except Refused:
            return self._unknown(lang)
        return self.page("leave.html", lang, titles=self.titles(way_out.purposes, lang))

    async def take(self, request: Request, token: str) -> Response:
        """A withdrawal: recorded first, whoever sent it; then the page says whether it has taken effect.

        It needs PostgreSQL and nobody else. A mailbox provider's one click comes from another site by design
        (RFC 8058); the choice on our own page comes from our own page.
        """
        lang = language(request)
        try:
            way_out = open_token(self._keys, token)
        except Refused:
            return self._unknown(lang)
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
                hash_of_token(token),
                self.parts.clock(),
            )
        except handlers.ErasedAddress:
            return self._trouble(lang, "erased", 200)
        except Unavailable as error:
            return self._trouble(lang, "unavailable", 503, f"?lang={lang}", error.retry_after)
        if done.statements == withdrawal.statements:
            self.count("withdrawn")
        outcome, in_transmission = await self._effect(done.statements)
        self.count_answer(outcome)
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
            receipt_key_hash=domain.receipt_key_hash(receipt_key(self._keys, token)),
            statements=tuple(uuid7(now, random) for _ in range(count)),
        )

    async def _effect(self, statements: Sequence[str]) -> tuple[Outcome, bool]:
        """Whether marketing refuses already, for every one of them; and whether a mail was on its way."""

        async def one(statement: str) -> list[str] | None:
            try:
                answer = await self.parts.marketing.get(
                    f"/marketing/effects/{statement}", params={"wait": EFFECT_SECONDS}, timeout=EFFECT_SECONDS + 1
                )
                return list(answer.json()["in_transmission"]) if answer.status == 200 else None
            except (Unavailable, Refused):
                # It is recorded already: whatever is wrong over there, the answer is at least "accepted".
                return None

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
        key = base64url(receipt_key(self._keys, token))
        titles = self.titles(way_out.purposes, lang)
        # Who withdrew everything by this link is told so again, whatever is posted after it.
        named = [""] if done.scope == "everything" else titles
        signed = self.acceptance(done.accepted, done.at)
        paths = [f"/ledger/receipts/{statement}?key={key}" for statement in done.statements]
        return self.page(
            "left.html",
            lang,
            headers={"Consent-Effect": outcome, **({HEADER: signed} if signed else {})},
            verifies=True,
            acceptance=signed,
            outcome=outcome,
            scope=done.scope,
            titles=titles,
            at=self.when(lang, done.at),
            in_transmission=in_transmission,
            receipts=[
                {"title": title, "path": path, "url": self.parts.base_url + path}
                for title, path in zip(named, paths, strict=True)
            ],
        )
