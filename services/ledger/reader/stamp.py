"""A timestamp inside a bundle: bound to the bundle's checkpoint by the tree alone (docs/formats.md §18 step 2, §25)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.ledger.reader.authority import Authority, said_at
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import verify_consistency
from services.ledger.reader.strict import Fields
from shared.clock import rfc3339

STAMPS_LIMIT: Final = 64
HASHES_LIMIT: Final = 65


@dataclass(frozen=True, slots=True)
class Stamp:
    """The log's first `size` leaves were there at this time, or before."""

    size: int
    time: datetime
    believed: bool
    """Whether it is by the authority that whoever verifies has brought along; else it is anybody's word."""

    @property
    def said(self) -> str:
        return rfc3339(self.time)


def parse_stamp(
    step: str, name: str, size: int, fields: Fields, checkpoint: Checkpoint, authority: Authority | None
) -> Stamp:
    """Judge one timestamp, or raise Invalid.

    1. Its tree is a beginning of the checkpoint's. No signature of an older checkpoint is needed for that.
    2. It was granted, and is about the text that a checkpoint of this size and root has.
    3. The authority that whoever verifies has brought along has signed it, if there is one.
    """
    fields.exactly("answer", "hashes", "root")
    hashes = [Fields(step, "a hash", {"hash": one}).base64url("hash") for one in fields.array("hashes", HASHES_LIMIT)]
    root, answer = fields.hash("root"), fields.base64url("answer")
    try:
        # 1.
        verify_consistency(size, checkpoint.size, hashes, root, checkpoint.root)
        # 2.
        text = Checkpoint(checkpoint.origin, size, root).text()
        time = said_at(answer, text)
        # 3.
        if authority is not None:
            time = authority.verify(answer, text)
    except Invalid as error:
        raise Invalid(step, f"the file {name}", f"does not verify: {error}") from None
    return Stamp(size, time, authority is not None)
