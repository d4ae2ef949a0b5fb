"""Secrets: every one is a file that only its owner can read, in one directory, named for what it is.

Binary keys are written as lower-case hex on one line. Where several are valid at once the file name ends in
a number; the highest is used for new work, all are accepted, and so they rotate without a stop.
"""

from __future__ import annotations

import base64
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import Corrupt
from shared.identifiers import Random

_NUMBERED: Final = re.compile(r"(?P<name>.+?)[.-](?P<number>[1-9][0-9]{0,8})\Z", re.ASCII)
_VALID_AT_ONCE: Final = 2
_KEK_PREFIX: Final = {"ledger": "kek", "subjects": "subjects-kek"}


class Secrets:
    """What is in the directory, read when asked for, so that a rotated file is seen by the next process."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _place(self, name: str) -> str:
        """Where an operator looks for a secret."""
        return f"{name} in {self._directory} (CONSENT_LEDGER_SECRETS_DIR)"

    def _missing(self, prefix: str) -> Corrupt:
        return Corrupt("no secret of this kind", self._place(prefix))

    def _text(self, name: str) -> str:
        try:
            return (self._directory / name).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            raise Corrupt("secret is missing or unreadable", self._place(name)) from None

    def _bytes(self, name: str, length: int) -> bytes:
        try:
            value = bytes.fromhex(self._text(name))
        except ValueError:
            value = b""
        if len(value) != length:
            raise Corrupt(f"secret is not {length} bytes in hex", self._place(name))
        return value

    def _numbered(self, prefix: str, separator: str) -> dict[int, str]:
        """File names `<prefix><separator><number>` by number, lowest first."""
        found: dict[int, str] = {}
        for path in self._directory.glob(f"{prefix}{separator}*"):
            match = _NUMBERED.match(path.name)
            if match and match["name"] == prefix and path.name == f"{prefix}{separator}{match['number']}":
                found[int(match["number"])] = path.name
        return dict(sorted(found.items()))

    def _keys(self, prefix: str, length: int) -> dict[int, bytes]:
        keys = {number: self._bytes(name, length) for number, name in self._numbered(prefix, "-").items()}
        if not keys:
            raise self._missing(prefix)
        return keys

    def source_keys(self) -> dict[str, bytes]:
        """Every valid key of every source, by key id `<source>.<n>`: what the ledger checks statements with."""
        found: dict[str, bytes] = {}
        for path in sorted(self._directory.glob("source-*.*")):
            if _NUMBERED.match(path.name):
                found[path.name.removeprefix("source-")] = self._bytes(path.name, 32)
        return found

    def own_source_key(self, source: str) -> tuple[str, bytes]:
        """The newest key of one source, with its id."""
        numbered = self._numbered(f"source-{source}", ".")
        if not numbered:
            raise self._missing(f"source-{source}")
        name = numbered[max(numbered)]
        return name.removeprefix("source-"), self._bytes(name, 32)

    def publisher_key(self) -> bytes:
        return self._bytes("publisher", 32)

    def keks(self, owner: str = "") -> dict[int, bytes]:
        """Key-encryption keys by id, lowest first; the last one wraps. `owner` is empty for the ledger's."""
        return self._keys(f"{owner}-kek" if owner else "kek", 32)

    def kek_files(self, owner: str) -> dict[int, Path]:
        """Where they lie, by number; `owner` is `ledger` or `subjects`."""
        found = self._numbered(_KEK_PREFIX[owner], "-")
        return {number: self._directory / name for number, name in found.items()}

    def peppers(self) -> dict[int, bytes]:
        return self._keys("pepper", 32)

    def _ed25519(self, name: str) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._bytes(name, 32))

    def log_key(self, shard: int) -> Ed25519PrivateKey:
        """The first key of a log, which signs its first checkpoint."""
        return self._ed25519(f"log-{shard}")

    def log_keys(self, shard: int) -> dict[int, Ed25519PrivateKey]:
        """The keys that sign checkpoints, by number; only the signer's process is given these files.

        The first one is `log-<shard>`, those that take over are `log-<shard>.<number>`.
        """
        names = self._numbered(f"log-{shard}", ".")
        if (self._directory / f"log-{shard}").is_file():
            names[1] = f"log-{shard}"
        return {number: self._ed25519(name) for number, name in names.items()}

    def fresh_key(self, shard: int) -> Ed25519PrivateKey:
        """Signs the fresh cosignature line, never a checkpoint of its own."""
        return self._ed25519(f"fresh-{shard}")

    def notice_key(self) -> tuple[str, Ed25519PrivateKey]:
        """Key id and key that sign served-notice tokens now."""
        numbered = self._numbered("notice", "-")
        if not numbered:
            raise self._missing("notice")
        name = numbered[max(numbered)]
        return name, self._ed25519(name)

    def notice_public_keys(self) -> dict[str, Ed25519PublicKey]:
        """Every key id a served-notice token may still bear."""
        return {name: self._ed25519(name).public_key() for name in self._numbered("notice", "-").values()}

    def way_out_keys(self) -> dict[int, bytes]:
        """AES-256-SIV keys (two of 32 bytes) by id; links in mails never expire, so none is ever removed."""
        return self._keys("way-out", 64)

    def dkim(self) -> tuple[str, bytes]:
        """Selector and RSA private key (PEM) for outgoing mail."""
        # By length first: ten comes after nine.
        paths = sorted(self._directory.glob("dkim-*.pem"), key=lambda path: (len(path.name), path.name))
        if not paths:
            raise self._missing("dkim")
        return paths[-1].stem.removeprefix("dkim-"), paths[-1].read_bytes()

    def dkim_keys(self) -> dict[str, bytes]:
        """Every DKIM key we have signed with, by selector: archived mails are checked against them for years."""
        paths = sorted(self._directory.glob("dkim-*.pem"))
        return {path.stem.removeprefix("dkim-"): path.read_bytes() for path in paths}

    def evidence_signer(self) -> tuple[bytes, bytes] | None:
        """Private key and certificates (PEM) that sign evidence as PDF; they come from a certification authority, so
        they are never made here, and None means that there are none, or two empty files in their place."""
        paths = [self._directory / name for name in ("evidence-key.pem", "evidence-certificates.pem")]
        if not any(path.exists() and path.stat().st_size for path in paths):
            return None
        try:
            return paths[0].read_bytes(), paths[1].read_bytes()
        except OSError:
            raise Corrupt("secret is missing or unreadable", self._place("evidence-*.pem")) from None

    def credential(self, caller: str) -> str:
        """What `caller` sends after `Authorization: Bearer `."""
        numbered = self._numbered(f"credential-{caller}", ".")
        if not numbered:
            raise self._missing(f"credential-{caller}")
        return f"{caller}:{self._text(numbered[max(numbered)])}"

    def callers(self) -> dict[str, list[str]]:
        """Each caller's valid secrets, newest first, at most two."""
        names: dict[str, list[int]] = {}
        for path in self._directory.glob("credential-*.*"):
            match = _NUMBERED.match(path.name)
            if match:
                names.setdefault(match["name"].removeprefix("credential-"), []).append(int(match["number"]))
        return {
            caller: [self._text(f"credential-{caller}.{n}") for n in sorted(numbers, reverse=True)[:_VALID_AT_ONCE]]
            for caller, numbers in sorted(names.items())
        }

    def grants(self) -> dict[str, list[str]]:
        """Callers of this installation alone, with their scopes (`grants.toml`, in the form of shared/grants.toml)."""
        path = self._directory / "grants.toml"
        if not path.is_file():
            return {}
        found = tomllib.loads(self._text(path.name))
        return {str(caller): [str(scope) for scope in scopes] for caller, scopes in found.items()}


def add_kek(directory: Path, owner: str, random: Random) -> int:
    """Make the next key-encryption key of `ledger` or `subjects`; its number."""
    number = max(Secrets(directory).kek_files(owner), default=0) + 1
    _write(directory / f"{_KEK_PREFIX[owner]}-{number}", random(32).hex() + "\n")
    return number


def _write(path: Path, text: str) -> None:
    """All or nothing, and never over an existing file: a half-written key would look like a rotated one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def create_secrets(
    directory: Path,
    random: Random,
    sources: Iterable[str],
    callers: Iterable[str],
    shards: int,
    database_roles: Iterable[str] = (),
    kafka_users: Iterable[str] = (),
) -> None:
    """Make what is missing and overwrite nothing, so that it can run before every start."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys = {
        "publisher": 32,
        **{_first(directory, f"source-{source}", "."): 32 for source in sources},
        **{_first(directory, kind, "-"): 32 for kind in ("kek", "subjects-kek", "pepper", "notice")},
        _first(directory, "way-out", "-"): 64,
        **{f"fresh-{shard}": 32 for shard in range(shards)},
        # Not once another key has taken over: the first may have been retired and removed.
        **{f"log-{shard}": 32 for shard in range(shards) if not any(directory.glob(f"log-{shard}.[1-9]*"))},
    }
    for name, length in keys.items():
        if not (directory / name).exists():
            _write(directory / name, random(length).hex() + "\n")
    words = [_first(directory, f"credential-{caller}", ".") for caller in callers]
    for name in [*words, *(f"database-{role}" for role in database_roles), *(f"kafka-{user}" for user in kafka_users)]:
        if not (directory / name).exists():
            _write(directory / name, base64.urlsafe_b64encode(random(32)).decode("ascii").rstrip("=") + "\n")
    if not any(directory.glob("dkim-*.pem")):
        _write(directory / "dkim-1.pem", _rsa_pem())


def create_log_key(directory: Path, random: Random, shard: int, number: int) -> None:
    """Make another key of a log, unless there is one of this number."""
    _write(directory / f"log-{shard}.{number}", random(32).hex() + "\n")


def _first(directory: Path, prefix: str, separator: str) -> str:
    """The name of number 1, or of whichever there is already: 1 may have been rotated away."""
    return next((path.name for path in sorted(directory.glob(f"{prefix}{separator}[1-9]*"))), f"{prefix}{separator}1")


def _rsa_pem() -> str:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode("ascii")
