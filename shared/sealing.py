"""What is personal leaves a collector only as ciphertext: compartments sealed by subjects, attachments by hash."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from shared.client import Response
from shared.errors import Refused, Unavailable
from shared.events.types import Attachment

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
    answer: asyncio.Future[Any] = field(repr=False)


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
    """Seals for whoever comes: who asks while others are being sealed for is sealed for together with the next.

    One call and one commit cost much the same for one person as for many; and nobody waits for others who have not
    come yet.
    """

    def __init__(self, subjects: Caller, controller: str) -> None:
        self._subjects, self._controller = subjects, controller
        self._waiting: list[_Ask] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def seal(self, items: Items, identifier: Mapping[str, str]) -> tuple[str, list[Compartment]]:
        """As `seal`. Refused and Unavailable pass through."""
        ask = _Ask(items, identifier, asyncio.get_running_loop().create_future())
        self._waiting.append(ask)
        if len(self._calls) < _CALLS:
            call = asyncio.create_task(self._go_on())
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
        answer = await ask.answer
        return _read(await self._alone(ask) if answer is None else answer, items)

    async def _go_on(self) -> None:
        while self._waiting:
            asks, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
            try:
                answers = [await self._alone(asks[0])] if len(asks) == 1 else await self._several(asks)
            except BaseException as error:  # each of them is told, and may ask again
                for ask in asks:
                    if not ask.answer.done():
                        ask.answer.set_exception(error)
                if not isinstance(error, Exception):
                    raise
            else:
                for ask, answer in zip(asks, answers, strict=True):
                    if not ask.answer.done():
                        ask.answer.set_result(answer)

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
