"""The keys of subjects at work: key-encryption keys and peppers, each in versions, the newest for new work.

Key-encryption keys are local files here. A KMS, Vault or PKCS#11 takes the place of `KeyEncryption`: two methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from services.subjects import domain
from shared.errors import Corrupt
from shared.identifiers import Random


class KeyEncryption:
    """Wraps and unwraps subject keys; key-encryption keys never leave this object.

    Nonces are random: two wrappings per subject and rotation stay far below the 2^32 that AES-GCM allows a key.
    """

    def __init__(self, load: Callable[[], Mapping[int, bytes]], random: Random) -> None:
        self._load = load
        self._keks = dict(load())
        self._random = random

    def read_again(self) -> bool:
        """Take in what came, and let go of what went; whether there is a newer one to wrap with."""
        before, self._keks = self.newest, dict(self._load())
        return self.newest != before

    @property
    def newest(self) -> int:
        return max(self._keks)

    def wrap(self, subject: str, use: str, key: bytes) -> bytes:
        nonce = self._random(domain.NONCE_BYTES)
        return domain.wrap(self.newest, self._keks[self.newest], subject, use, key, nonce)

    def unwrap(self, subject: str, use: str, wrapped: bytes) -> bytes:
        """Raises Corrupt: a key that does not unwrap makes its person unreadable, and somebody must look."""
        number = int.from_bytes(wrapped[:4], "big")
        if number not in self._keks:
            # A process that was started after a new key came has wrapped this one already.
            self._keks = dict(self._load())
        kek = self._keks.get(number)
        if kek is None:
            raise Corrupt("subject key is wrapped under a key-encryption key that is not here", subject)
        try:
            return domain.unwrap(kek, subject, use, wrapped)
        except domain.DoesNotOpen:
            raise Corrupt("subject key does not unwrap", subject) from None


@dataclass(frozen=True, slots=True)
class Peppers:
    """All valid peppers by number. Written and searched under each: a process that does not know the newest yet
    must still meet the rows of one that does, or two of them would give one address two pseudonyms."""

    by_number: Mapping[int, bytes] = field(repr=False)

    def digests(self, controller: str, kind: str, normalised: str) -> dict[int, bytes]:
        """The identifier's index digest under each pepper, lowest number first."""
        return {
            number: domain.index_digest(pepper, controller, kind, normalised)
            for number, pepper in sorted(self.by_number.items())
        }

    def suppression(self, indexes: Mapping[int, bytes], purpose: str, channel: str) -> dict[int, bytes]:
        """The suppression digest under each pepper for which the index digest is known."""
        return {
            number: domain.suppression_digest(self.by_number[number], index, purpose, channel)
            for number, index in indexes.items()
            if number in self.by_number
        }

    def fingerprints(self) -> dict[int, bytes]:
        return {number: domain.pepper_fingerprint(pepper) for number, pepper in self.by_number.items()}
