"""Checkpoints: the three lines that say how big a log is and what is in it (docs/formats.md §11)."""

import re
from base64 import b64encode
from dataclasses import dataclass

from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import HASH_SIZE, U64_LIMIT
from services.ledger.reader.note import NAME_LIMIT, Verifier, decode_base64, parse_note

_DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,19})\Z", re.ASCII)
_LINES = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: `size` leaves whose tree has this root."""

    origin: str
    size: int
    root: bytes

    def text(self) -> bytes:
        """Return the note text of this checkpoint."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n".encode()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """Read the text of a checkpoint's note, or raise Invalid.

    1. Three lines, the last one ended too; no extension lines.
    2. The origin is not empty, without spaces and plus.
    3. The size is a u64 in decimal without leading zeros.
    4. The root is base64 of 32 bytes.
    """
    # 1.
    try:
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise Invalid("checkpoint 1", "the checkpoint", "is not UTF-8") from None
    if len(lines) != _LINES + 1 or lines[_LINES]:
        raise Invalid("checkpoint 1", "the checkpoint", "has not exactly three lines")
    origin, size, encoded = lines[:_LINES]
    # 2.
    if not 0 < len(origin) <= NAME_LIMIT or any(one.isspace() or one < " " or one == "+" for one in origin):
        raise Invalid("checkpoint 2", "the origin", "is empty, too long, or has a space or plus in it")
    # 3.
    number = parse_decimal("checkpoint 3", "the size", size)
    # 4.
    root = decode_base64("checkpoint 4", "the root", encoded)
    if len(root) != HASH_SIZE:
        raise Invalid("checkpoint 4", "the root", f"has not {HASH_SIZE} bytes")
    return Checkpoint(origin, number, root)


def verify_checkpoint(data: bytes, vkey: str) -> Checkpoint:
    """Verify a signed checkpoint under the log's verifier key and return what it says, or raise Invalid.

    1. The note and the verifier key are well formed.
    2. The key has signed it.
    3. The text is a checkpoint.
    4. Its origin is the key's name.
    5. Its size is at least 1: our logs begin with a leaf and are never signed empty.
    """
    # 1.
    note = parse_note(data)
    verifier = Verifier(vkey)
    # 2.
    verifier.verify(note)
    # 3.
    checkpoint = parse_checkpoint(note.text)
    # 4.
    if checkpoint.origin != verifier.name:
        raise Invalid("checkpoint verification 4", "the origin", "is not the name of the key")
    # 5.
    if checkpoint.size == 0:
        raise Invalid("checkpoint verification 5", "the size", "is 0")
    return checkpoint


def is_log_of(origin: str, subject: str) -> bool:
    """Whether this is the origin of the log of the subject's shard."""
    return origin.endswith(f"/ledger/log/{subject.partition('.')[0]}")


def parse_decimal(step: str, what: str, text: str) -> int:
    """Read a u64 in decimal without leading zeros, or raise Invalid."""
    if not _DECIMAL.match(text) or int(text) >= U64_LIMIT:
        raise Invalid(step, what, "is not a u64 in plain decimal")
    return int(text)
