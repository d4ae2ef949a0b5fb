"""The start page: one line per part, in the order in which the data flows, each with its state."""

from collections.abc import Mapping
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse

from shared.access import Access, open_to_everyone
from shared.metrics import Metrics
from shared.pages import Pages
from shared.process import Running
from shared.web import create_app, language


def app(running: Mapping[str, Running], access: Access, *, demo: bool) -> FastAPI:
    """`/` for the parts that run in this process."""
    pages = Pages("start", Path(__file__).parent)

    async def ready() -> dict[str, bool]:
        return {}

    application = create_app(
        "start", access=access, metrics=Metrics("start"), ready=ready, prefix="", error_page=pages.error
    )

    @application.get("/", dependencies=[Depends(open_to_everyone)])
    async def start(request: Request) -> HTMLResponse:
        states: dict[str, bool] = {}
        for role, one in running.items():
            try:
                states[role] = all(part is True for part in (await one.ready()).values())
            except Exception:  # noqa: BLE001 - whatever is wrong with a part, this page shows that it is
                states[role] = False
        return pages.render("start.html", language(request), request=request, states=states, demo=demo)

    return application
