"""ledger: every fact, appended to a Merkle log, sealed by a second process, and published as recorded.

Reads   consent.stated (one partition per shard)
Writes  consent.recorded; schema `ledger`; the signer's own files outside PostgreSQL
Owns    the logs, the subjects' ledger keys K, attachments, what was rejected

Stages  check → prepare → append (one process), seal (another), publish
Folders api (doors), proofs, evidence, outside (witnesses and timestamps), procedures (the command line's);
        log writes the log's formats, reader verifies them and shares no code with it
"""
