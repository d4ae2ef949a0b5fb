"""What a broker is told so that everybody logs in and nobody may do what was not granted; for one node.

The administrator and the broker itself are users of these settings (PLAIN): somebody has to be there before the first
user can be made. All others log in by SCRAM, and are made by `consent-ledger topics`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from shared.kafka_users import ADMIN

LISTENER: Final = "SERVICES"
BROKER: Final = "broker"

_PLAIN: Final = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM: Final = "org.apache.kafka.common.security.scram.ScramLoginModule required"

OPEN: Final = {
    "listener.security.protocol.map": f"{LISTENER}:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
    "inter.broker.listener.name": LISTENER,
    "sasl.mechanism.inter.broker.protocol": "PLAIN",
    "sasl.mechanism.controller.protocol": "PLAIN",
    "listener.name.services.sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
    "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": f"User:{ADMIN};User:{BROKER}",
    "allow.everyone.if.no.acl.found": "false",
}
"""What everybody may read."""


def tls(authority: Path, certificate: Path) -> dict[str, str]:
    """Added to OPEN: TLS for everybody but the controller. `certificate` holds the key (PKCS#8) before it."""
    return {
        "listener.security.protocol.map": f"{LISTENER}:SASL_SSL,CONTROLLER:SASL_PLAINTEXT",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificate),
        "ssl.truststore.type": "PEM",  # of the broker as its own client
        "ssl.truststore.location": str(authority),
    }


def secret(broker_password: str, admin_password: str) -> dict[str, str]:
    """The rest, which holds the passwords of these two. They must hold no quotation marks and no backslashes."""
    own = f'{_PLAIN} username="{BROKER}" password="{broker_password}" user_{BROKER}="{broker_password}"'
    return {
        "listener.name.controller.plain.sasl.jaas.config": f"{own};",
        "listener.name.services.plain.sasl.jaas.config": f'{own} user_{ADMIN}="{admin_password}";',
        "listener.name.services.scram-sha-512.sasl.jaas.config": f"{_SCRAM};",
    }
