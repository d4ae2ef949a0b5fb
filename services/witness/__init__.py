"""A C2SP tlog-witness: remembers the largest tree it has seen of each log, and cosigns what continues it.

Of Consent Ledger it knows the reader alone, and needs no database: another organisation runs it for us, we for them.
"""
