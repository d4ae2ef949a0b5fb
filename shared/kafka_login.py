"""Who a service is to the brokers: a user with a password, and whose certificates it believes."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

SCRAM: Final = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True)
class Login:
    """Without a user nobody in particular; without an authority in plain text."""

    user: str = ""
    password: str = field(default="", repr=False)
    authority: Path | None = None
    """File with the certificates of those who may sign the brokers' certificates."""
    mechanism: str = SCRAM

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        return None if self.authority is None else ssl.create_default_context(cafile=self.authority)

    def options(self) -> dict[str, Any]:
        """What each client of aiokafka is told."""
        line = "PLAINTEXT" if self.authority is None else "SSL"
        if not self.user:
            return {"security_protocol": line, "ssl_context": self.ssl_context}
        return {
            "security_protocol": f"SASL_{line}",
            "ssl_context": self.ssl_context,
            "sasl_mechanism": self.mechanism,
            "sasl_plain_username": self.user,
            "sasl_plain_password": self.password,
        }


NOBODY: Final = Login()
