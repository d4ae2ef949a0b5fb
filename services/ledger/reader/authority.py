"""The authority whose word on the time is believed, and what its timestamps say (RFC 3161; docs/formats.md §25)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response

from services.ledger.reader.errors import Invalid

ANSWER_LIMIT: Final = 64 * 1024
AUTHORITY_LIMIT: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Authority:
    """Whose word on the time is believed: certificates that sign themselves, and those that lead to them."""

    roots: tuple[x509.Certificate, ...]
    intermediates: tuple[x509.Certificate, ...] = ()

    def verify(self, answer: bytes, text: bytes) -> datetime:
        """Return when, by the authority's word, this text was there; or raise Invalid.

        1. It is an answer of RFC 3161, not longer than we read.
        2. It was granted, and a key certified for timestamps by one of the roots has signed it.
        3. It is about this text's SHA-256 (or SHA-384, SHA-512).
        """
        # 1.
        if len(answer) > ANSWER_LIMIT:
            raise Invalid("timestamp 1", "the timestamp", f"is longer than {ANSWER_LIMIT} bytes")
        try:
            response = decode_timestamp_response(answer)
        except ValueError:
            raise Invalid("timestamp 1", "the timestamp", "is no answer of RFC 3161") from None
        # 2. 3.
        verifier = VerifierBuilder(roots=list(self.roots), intermediates=list(self.intermediates)).build()
        try:
            verifier.verify_message(response, text)
            time = response.tst_info.gen_time
        except (VerificationError, UnsupportedAlgorithm, ValueError, TypeError):
            why = "does not verify: not granted, about something else, or signed by nobody the authority certifies"
            raise Invalid("timestamp 2", "the timestamp", why) from None
        return time if time.tzinfo else time.replace(tzinfo=UTC)


def parse_authority(pem: bytes) -> Authority:
    """Read the certificates of an authority, or raise Invalid unless one of them signs itself."""
    try:
        found: Sequence[x509.Certificate] = x509.load_pem_x509_certificates(pem) if len(pem) <= AUTHORITY_LIMIT else ()
    except ValueError:
        found = ()
    roots = tuple(one for one in found if one.issuer == one.subject)
    if not roots:
        raise Invalid("authority", "the authority's file", "holds no certificate that signs itself (PEM)")
    return Authority(roots, tuple(one for one in found if one not in roots))
