"""What is personal leaves a collector only as ciphertext: compartments sealed by subjects, attachments by hash."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.client import Response
from shared.errors import Unavailable
from shared.events.types import Attachment


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


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def from_base64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


async def seal(
    subjects: Caller, controller: str, items: Sequence[dict[str, object]], **whom: object
) -> tuple[str, list[Compartment]]:
    """`POST /subjects/seal`: the subject and one compartment per item, in the order of the items.

    `whom` is `subject=` or `identifier=`. Refused and Unavailable pass through.
    """
    answer = (
        await subjects.post("/subjects/seal", json={"controller": controller, **whom, "items": list(items)})
    ).json()
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
