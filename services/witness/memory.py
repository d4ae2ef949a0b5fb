"""A witness's memory: its key, the logs it watches, and of each log the largest checkpoint that it cosigned.

    name                            under which it cosigns
    key                             32 bytes in hex, for its owner's eyes
    logs                            one line `log <vkey>` for each key of each log that it watches
    checkpoints/<sha256(origin)>    the note, with the log's signatures and the witness's cosignature

A checkpoint is on the disk, whole, before anybody is told of it.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader.checkpoint import Checkpoint, parse_checkpoint
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, Verifier, parse_note
from services.ledger.reader.policy import POLICY_LIMIT, parse_policy
from shared.errors import Corrupt, Refused

if TYPE_CHECKING:
    from shared.identifiers import Random

_FOLDER: Final = "checkpoints"


def origin_hash(origin: str) -> str:
    """The name under which the world asks for the checkpoint of a log."""
    return sha256(origin.encode()).hexdigest()


class Memory:
    """One witness's folder, held by one process at a time."""

    def __init__(self, folder: Path, signer: CosignatureSigner, logs: dict[str, list[Verifier]], held: int) -> None:
        self._folder = folder
        self._held = held
        self.signer = signer
        self.logs = logs
        """By origin, the keys that may sign for it."""

    @staticmethod
    def create(folder: Path, name: str, random: Random) -> str:
        """Begin a witness with a key of its own; its verifier key. Refused if there is one already."""
        if (folder / "key").exists():
            raise Refused("witness-exists", "There is a witness in this folder already; its key is never replaced.")
        seed = random(32)
        try:
            vkey = CosignatureSigner(name, Ed25519PrivateKey.from_private_bytes(seed)).vkey
        except Invalid:
            raise Refused("no-name", "A witness's name has 1 to 255 characters, no spaces and no plus.") from None
        (folder / _FOLDER).mkdir(mode=0o700, parents=True, exist_ok=True)
        # The key last: it is what says that there is a witness.
        _write(folder / "name", f"{name}\n".encode())
        _write(folder / "logs", b"# log <vkey>\n")
        _write(folder / "key", f"{seed.hex()}\n".encode())
        return vkey

    @staticmethod
    def trust(folder: Path, vkey: str) -> str:
        """Watch the log of this verifier key, or another key of a log that is watched; its origin."""
        try:
            origin = Verifier(vkey).name
            before = (folder / "logs").read_bytes()
            content = before + f"log {vkey}\n".encode()
            parse_policy(content + b"quorum none\n")
        except Invalid as error:
            raise Refused("no-key", f"This is no log's verifier key, or it is here already: {error}") from None
        except OSError:
            raise _none(folder) from None
        _write(folder / "logs", content)
        return origin

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open for cosigning; Corrupt if it is none, contradicts itself, or another process holds it."""
        try:
            seed = bytes.fromhex((folder / "key").read_text("ascii").strip())
            signer = CosignatureSigner(
                (folder / "name").read_text("utf-8").strip(), Ed25519PrivateKey.from_private_bytes(seed)
            )
            policy = parse_policy((folder / "logs").read_bytes()[:POLICY_LIMIT] + b"quorum none\n")
            held = os.open(folder / "key", os.O_RDONLY)
        except OSError:
            raise _none(folder) from None
        except (ValueError, Invalid) as error:
            raise Corrupt("the witness's files", f"{folder}: {error}") from None
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(held)
            raise Corrupt("the witness's files", f"{folder}: another witness holds them") from None
        logs: dict[str, list[Verifier]] = {}
        for key in policy.logs:
            verifier = Verifier(key.vkey)
            logs.setdefault(verifier.name, []).append(verifier)
        memory = cls(folder, signer, logs, held)
        try:
            for origin in logs:
                memory.newest(origin)
        except Corrupt:
            memory.close()
            raise
        return memory

    def newest(self, origin: str) -> Checkpoint | None:
        """The largest checkpoint cosigned for a log; Corrupt if what is there was not cosigned by us."""
        note = self.note(origin_hash(origin))
        if note is None:
            return None
        try:
            parsed = parse_note(note)
            CosignatureVerifier(self.signer.vkey).verify(parsed)
            checkpoint = parse_checkpoint(parsed.text)
        except Invalid as error:
            raise Corrupt("the witness's checkpoint", f"{origin}: {error}") from None
        if checkpoint.origin != origin:
            raise Corrupt("the witness's checkpoint", f"{origin}: it is of another log")
        return checkpoint

    def note(self, name: str) -> bytes | None:
        """The newest note, by the hash of its origin."""
        try:
            return (self._folder / _FOLDER / name).read_bytes()
        except FileNotFoundError:
            return None

    def keep(self, origin: str, note: bytes) -> None:
        """Put a note in the place of the one before; when this returns, the world may know."""
        _write(self._folder / _FOLDER / origin_hash(origin), note)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._held)


def _none(folder: Path) -> Refused:
    return Refused("no-witness", f"There is no witness in {folder}. Begin one with `consent-ledger witness create`.")


def _write(path: Path, content: bytes) -> None:
    """All or nothing, and on the disk when it returns."""
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
