"""The outbox in a team's own schema: its table, `put`, and for those who have Kafka the relay.

Importing this needs no Kafka; importing `relay` does (`pip install consent-ledger-client[kafka]`).
"""
