"""ledger: every fact, appended to a Merkle log, sealed by a second process, and published as recorded.

Reads   consent.stated (one partition per shard)
Writes  consent.recorded; schema `ledger`; the signer's own files outside PostgreSQL
Owns    the logs, the subjects' ledger keys K, attachments, what was rejected

Stages  check → prepare → append (one process), seal (another), publish; `create` begins a log, `check_log` re-verifies
        all of it by `reader`, which shares no code with `log`, the writer.
"""
