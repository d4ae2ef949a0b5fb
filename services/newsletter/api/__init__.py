"""The front door: parse, ask other services, call one handler, show a page. A GET changes nothing."""

from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.newsletter.api.confirmation import ConfirmationPage
from services.newsletter.api.form import FormPage
from services.newsletter.api.front import Parts, hash_of_token
from services.newsletter.api.way_out import WayOutPage
from shared import served_notice
from shared.access import open_by_capability, open_to_everyone
from shared.errors import Refused
from shared.openapi import FORM, TEXT, Answer, door, json, page

PEOPLE = [Depends(open_to_everyone)]
LINKS = [Depends(open_by_capability)]


_SIGN_UP: Final = {
    "type": "object",
    "properties": {
        "email": {"type": "string", "maxLength": 320},
        "purpose": {
            "type": "array",
            "items": {"type": "string"},
            "description": "`purpose/channel` of each ticked box",
        },
        "served": {"type": "string", "description": "the token that the form was served with"},
    },
}
_WAY_OUT: Final = {
    "type": "object",
    "properties": {
        "scope": {"enum": ["purpose", "everything"]},
        "List-Unsubscribe": {"const": "One-Click", "description": "RFC 8058"},
    },
}
_ACCEPTANCE: Final = {"Consent-Acceptance": "Our signed word for what was stated (docs/formats.md §17)."}
_EFFECT: Final = {
    "Consent-Effect": "`stopped`: no mail leaves from now on; `accepted`: it is recorded and will stop.",
}
_AGAIN: Final = Answer(
    "A part of the system does not answer right now: the page again, with all that was typed.",
    {"text/html": str, "application/json": dict[str, Any]},
    {"Retry-After": "Seconds after which to send it again."},
)
_WAIT: Final = Answer(
    "Too many from this network, or from everybody: the page says what to do.",
    {"text/html": str},
    {"Retry-After": "Seconds after which to send it again."},
)


def router(parts: Parts) -> APIRouter:
    """Routes under /newsletter."""
    form, confirmation, way_out = FormPage(parts), ConfirmationPage(parts), WayOutPage(parts)
    register, keys = parts.speaker.register, served_notice.key_set(parts.secrets.notice_public_keys())
    routes = APIRouter(prefix="/newsletter")

    @routes.get("", dependencies=PEOPLE)
    @door(answers={200: page("The form.")})
    async def show_form(request: Request) -> Response:
        """The form, with the notice in force."""
        return await form.show(request)

    @routes.post("", dependencies=PEOPLE)
    @door(
        takes={FORM: _SIGN_UP},
        answers={
            200: page("Thank you. It is durable, and a mail with a link is on its way.", None, _ACCEPTANCE),
            422: page("The form again, with what is wrong with it."),
            429: _WAIT,
            503: _AGAIN,
        },
    )
    async def take_form(request: Request) -> Response:
        """A sign-up
        It is answered the same whether or not the address is known."""
        return await form.take(request)

    @routes.get("/notice-keys", dependencies=PEOPLE)
    @door(answers={200: json("RFC 7517, RFC 8037.", dict[str, list[dict[str, str]]])})
    async def notice_keys() -> Response:
        """Public keys of the served-notice token, as a JSON Web Key Set."""
        return JSONResponse(keys, headers={"Cache-Control": "public, max-age=300"})

    @routes.get("/notices/{notice_hash}", dependencies=PEOPLE)
    @door(answers={200: Answer("The text.", {TEXT: str})}, refuses={404: "We have published no such notice."})
    async def notice(notice_hash: str) -> Response:
        """The exact text whose SHA-256 this is."""
        found = register.notice_by_hash(notice_hash)
        if found is None:
            raise Refused("notice-unknown", "We have published no notice with this hash.", status=404)
        headers = {"Content-Language": found.language, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.text(), media_type="text/plain; charset=utf-8", headers=headers)

    @routes.get("/confirm/{token}", dependencies=LINKS)
    @door(
        answers={
            200: page("The question, or that it was answered."),
            410: page("The link has ended."),
            429: _WAIT,
        },
        refuses={404: "This link is not one of ours."},
    )
    async def show_confirmation(request: Request, token: str) -> Response:
        """The page with the button
        Opening it changes nothing."""
        return await confirmation.show(request, token)

    @routes.post("/confirm/{token}", dependencies=LINKS)
    @door(
        answers={
            200: page("Confirmed, now or before.", None, _ACCEPTANCE),
            410: page("The link has ended."),
            429: _WAIT,
            503: _AGAIN,
        },
        refuses={403: "The form was sent from another site's page.", 404: "This link is not one of ours."},
    )
    async def take_confirmation(request: Request, token: str) -> Response:
        """Confirm the sign-up
        Sent twice, it confirms once. It needs no body; a form's field `opened`, as the page was given it,
        says when that page was fetched."""
        return await confirmation.take(request, token)

    @routes.get("/unsubscribe/{token}", dependencies=LINKS)
    @door(answers={200: page("The choice.")}, refuses={404: "This link is not one of ours."})
    async def show_way_out(request: Request, token: str) -> Response:
        """The choice of what to end
        Opening it changes nothing."""
        return await way_out.show(request, token)

    @routes.post("/unsubscribe/{token}", dependencies=LINKS)
    @door(
        takes={FORM: _WAY_OUT, "multipart/form-data": _WAY_OUT},
        answers={200: page("Recorded.", _EFFECT, _ACCEPTANCE), 503: _AGAIN},
        refuses={404: "This link is not one of ours."},
    )
    async def take_way_out(request: Request, token: str) -> Response:
        """A withdrawal, by the page's button or a mailbox provider's one click (RFC 8058)
        Sent twice, it is recorded once."""
        return await way_out.take(request, token)

    return routes


__all__ = ["Parts", "hash_of_token", "router"]
