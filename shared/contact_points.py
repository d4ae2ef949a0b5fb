"""Contact points: what somebody typed, and the one form of it under which it is found again.

`typed` is where mail goes and what evidence shows. `normalised` only ever goes into a keyed index. It joins what
Unicode and DNS call the same and guesses nothing about providers: dots and `+tags` stay, because only the
provider knows whether they matter.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Final

from email_validator import EmailNotValidError, validate_email

from shared.errors import Refused

EMAIL: Final = "email"
_LONGEST: Final = 254  # octets, RFC 5321 §4.5.3.1.3 less the angle brackets
_LONGEST_LOCAL: Final = 64  # octets, RFC 5321 §4.5.3.1.1

# Cc: header injection. Cf: zero-width and bidirectional characters, two addresses that look like one. The rest is
# white space, separators and what no mail system can agree on.
_NEVER: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class ContactPoint:
    """Neither form shows in a repr, so that neither can end in a log."""

    kind: str
    typed: str = field(repr=False)
    normalised: str = field(repr=False)


def _fold(text: str) -> str:
    """Canonical caseless form (Unicode D145), composed: stable when applied again."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


def _refused() -> Refused:
    return Refused("invalid-address", "This is not an e-mail address we can write to. Please check what you typed.")


def parse_email(typed: str) -> ContactPoint:
    """The e-mail address in `typed`, without asking DNS; spaces around it are not part of it.

    Raises Refused `invalid-address`, whose message never quotes the address.
    """
    typed = typed.strip(" ")
    # First the cheap limit: whatever follows looks at each character.
    if len(typed) > _LONGEST or any(unicodedata.category(character) in _NEVER for character in typed):
        raise _refused()
    try:
        valid = validate_email(typed, check_deliverability=False)
    except EmailNotValidError:
        raise _refused() from None
    domain = unicodedata.normalize("NFC", typed.rpartition("@")[2]).lower()
    if domain not in (valid.domain, valid.ascii_domain):
        # IDNA would map it (full-width letters, ideographic stops); we would then write to something nobody typed.
        raise _refused()
    local = typed.rpartition("@")[0]
    normalised = f"{_fold(local)}@{valid.ascii_domain.lower()}"
    if len(local.encode()) > _LONGEST_LOCAL or len(f"{local}@{valid.ascii_domain}".encode()) > _LONGEST:
        raise _refused()
    return ContactPoint(EMAIL, typed, normalised)
