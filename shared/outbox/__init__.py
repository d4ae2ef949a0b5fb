"""From a handler's transaction to the ledger, acknowledged end to end: the table, `put`, and the relay.

`outbox.sql` and `progress.sql` are included by the migrations of every service that states facts. The relay and
whoever waits are woken by `<schema>_outbox` (something was put) and `<schema>_sealed` (something is done).
"""

from shared.outbox.put import put
from shared.outbox.relay import Relay, Standing

__all__ = ["Relay", "Standing", "put"]
