"""The fresh line of a checkpoint: when it was the log's newest, and by whose word (docs/formats.md §11)."""

from dataclasses import dataclass

from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import CosignatureVerifier, parse_note
from services.ledger.reader.policy import Policy, Trusted
from services.ledger.reader.strict import moment


@dataclass(frozen=True, slots=True)
class Fresh:
    """At this second the checkpoint was the newest, if one believes the key that says so."""

    seconds: int
    believed: bool
    """Whether that key was given by whoever verifies. One that came with the file can be anybody's: the log's key
    vouches for none."""

    @property
    def said(self) -> str:
        """When, as it may stand in a sentence."""
        if self.believed:
            return moment(self.seconds)
        return f"{moment(self.seconds)} (by a fresh key that the file itself brought along)"


def verify_fresh(trusted: Trusted, vkey: str, origin: str, note: bytes) -> Fresh:
    """Verify the fresh line of a checkpoint under the key that its file encloses, or raise Invalid.

    1. The key is one of those given, if any was given.
    2. Its name is `<origin>/fresh`.
    3. It has signed the checkpoint.
    """
    # 1.
    given = trusted.fresh if isinstance(trusted, Policy) else ()
    if given and vkey not in given:
        raise Invalid("fresh 1", "the fresh key", "you gave is not the one this file names")
    # 2.
    verifier = CosignatureVerifier(vkey)
    if verifier.name != f"{origin}/fresh":
        raise Invalid("fresh 2", "the fresh line", "is by a key of another name")
    # 3.
    return Fresh(verifier.verify(parse_note(note)), bool(given))
