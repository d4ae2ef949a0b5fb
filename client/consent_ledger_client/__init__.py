"""A team's end of a Consent Ledger: what a person said is sealed, put into your own transaction, and carried on.

`ConsentLedger` is all of it for a team that states over HTTP. Who has Kafka runs `outbox.relay.Relay` instead.
"""

from pathlib import Path

from consent_ledger_client.ledger import ConsentLedger, receipt_key
from consent_ledger_client.over_http import HttpRelay
from shared.database import Database
from shared.errors import Corrupt, Refused, Unavailable
from shared.events.types import (
    Attachment,
    ConsentExpired,
    ConsentGiven,
    ConsentRefused,
    ConsentRequested,
    ConsentUsed,
    ConsentWithdrawn,
    MessageSent,
    Notice,
    NoticePublished,
    RetentionExecuted,
    Sealed,
    Served,
    Statement,
)
from shared.outbox.put import put


def outbox_sql() -> str:
    """A migration for your own schema: the outbox. PostgreSQL 17 or newer."""
    folder = Path(__file__).with_name("outbox")
    return "\n".join((folder / name).read_text("utf-8") for name in ("outbox.sql", "progress.sql", "over_http.sql"))


__all__ = [
    "Attachment",
    "ConsentExpired",
    "ConsentGiven",
    "ConsentLedger",
    "ConsentRefused",
    "ConsentRequested",
    "ConsentUsed",
    "ConsentWithdrawn",
    "Corrupt",
    "Database",
    "HttpRelay",
    "MessageSent",
    "Notice",
    "NoticePublished",
    "Refused",
    "RetentionExecuted",
    "Sealed",
    "Served",
    "Statement",
    "Unavailable",
    "outbox_sql",
    "put",
    "receipt_key",
]
