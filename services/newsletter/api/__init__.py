"""The front door: parse, ask other services, call one handler, show a page. A GET changes nothing."""

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from services.newsletter.api.confirmation import ConfirmationPage
from services.newsletter.api.form import FormPage
from services.newsletter.api.front import Parts, hash_of_token
from services.newsletter.api.way_out import WayOutPage
from shared import served_notice
from shared.access import open_by_capability, open_to_everyone
from shared.errors import Refused

PEOPLE = [Depends(open_to_everyone)]
LINKS = [Depends(open_by_capability)]


def router(parts: Parts) -> APIRouter:
    """Routes under /newsletter."""
    form, confirmation, way_out = FormPage(parts), ConfirmationPage(parts), WayOutPage(parts)
    register, keys = parts.speaker.register, served_notice.key_set(parts.secrets.notice_public_keys())
    routes = APIRouter(prefix="/newsletter")

    @routes.get("", dependencies=PEOPLE)
    async def show_form(request: Request) -> Response:
        """The form, with the notice in force."""
        return await form.show(request)

    @routes.post("", dependencies=PEOPLE)
    async def take_form(request: Request) -> Response:
        """A sign-up; answered the same whether or not the address is known."""
        return await form.take(request)

    @routes.get("/notice-keys", dependencies=PEOPLE)
    async def notice_keys() -> Response:
        """Public keys of the served-notice token, as a JSON Web Key Set."""
        return JSONResponse(keys, headers={"Cache-Control": "public, max-age=300"})

    @routes.get("/notices/{notice_hash}", dependencies=PEOPLE)
    async def notice(notice_hash: str) -> Response:
        """The exact text whose SHA-256 this is."""
        found = register.notice_by_hash(notice_hash)
        if found is None:
            raise Refused("notice-unknown", "We have published no notice with this hash.", status=404)
        headers = {"Content-Language": found.language, "Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.text(), media_type="text/plain; charset=utf-8", headers=headers)

    @routes.get("/confirm/{token}", dependencies=LINKS)
    async def show_confirmation(request: Request, token: str) -> Response:
        """The page with the button. Opening it changes nothing."""
        return await confirmation.show(request, token)

    @routes.post("/confirm/{token}", dependencies=LINKS)
    async def take_confirmation(request: Request, token: str) -> Response:
        """The button."""
        return await confirmation.take(request, token)

    @routes.get("/unsubscribe/{token}", dependencies=LINKS)
    async def show_way_out(request: Request, token: str) -> Response:
        """The choice of what to end. Opening it changes nothing."""
        return await way_out.show(request, token)

    @routes.post("/unsubscribe/{token}", dependencies=LINKS)
    async def take_way_out(request: Request, token: str) -> Response:
        """A withdrawal, by the page's button or a mailbox provider's one click (RFC 8058)."""
        return await way_out.take(request, token)

    return routes


__all__ = ["Parts", "hash_of_token", "router"]
