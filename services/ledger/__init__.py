"""The ledger: appends what was stated to one log per shard, seals it and publishes it as recorded."""
