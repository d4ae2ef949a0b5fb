-- The appender asks whether a register that a statement names was kept; of what lies beside it, it sees the hashes.
grant select (hash) on attachment to ledger_append;
