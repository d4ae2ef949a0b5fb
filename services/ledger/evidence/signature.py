"""Signs and time-stamps the evidence as PDF (PAdES), where the installation was given a key for that."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pyhanko.keys import load_certs_from_pemder_data, load_private_key_from_pemder_data
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.sign import signers
from pyhanko.sign.fields import SigSeedSubFilter
from pyhanko.sign.timestamps import HTTPTimeStamper, TimeStamper
from pyhanko_certvalidator.registry import SimpleCertificateStore

from shared.errors import Corrupt, Unavailable
from shared.secrets import Secrets

FIELD: Final = "evidence"
_SECONDS: Final = 10


@dataclass(frozen=True)
class PdfSignature:
    """The key that signs documents, with its certificates, and who says what time it is."""

    signer: signers.SimpleSigner
    timestamper: TimeStamper | None

    @classmethod
    def of(cls, secrets: Secrets, authority: str) -> PdfSignature | None:
        """From the secrets `evidence-key.pem` and `evidence-certificates.pem` (the signer's first); None without."""
        pair = secrets.evidence_signer()
        if pair is None:
            return None
        return cls.made(*pair, HTTPTimeStamper(authority, timeout=_SECONDS) if authority else None)

    @classmethod
    def made(cls, key: bytes, certificates: bytes, timestamper: TimeStamper | None) -> PdfSignature:
        """From PEM; Corrupt if they are none."""
        try:
            own, *others = load_certs_from_pemder_data(certificates)
            private = load_private_key_from_pemder_data(key, passphrase=None)
        except (ValueError, TypeError, OSError):
            raise Corrupt("no PEM", "evidence-key.pem or evidence-certificates.pem") from None
        store = SimpleCertificateStore()  # type: ignore[no-untyped-call]  # the library's
        store.register_multiple(others)
        return cls(signers.SimpleSigner(own, private, store), timestamper)

    def sign(self, document: bytes) -> bytes:
        """The document with a signature over all of it; Unavailable if the time-stamp authority does not answer."""
        writer = IncrementalPdfFileWriter(BytesIO(document))
        said = signers.PdfSignatureMetadata(field_name=FIELD, md_algorithm="sha256", subfilter=SigSeedSubFilter.PADES)
        try:
            signed: BytesIO = signers.sign_pdf(writer, said, self.signer, self.timestamper)
        except OSError:
            raise Unavailable("time-stamp authority") from None
        return signed.getvalue()
