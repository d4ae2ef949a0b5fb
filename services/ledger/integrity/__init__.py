"""Everything stored, held against everything else, by the reader alone: one file per kind of thing that is checked.

`log check` (services/ledger/procedures/log_check.py) does it from the first leaf to the last, under one snapshot; the
running check (`running`) with each checkpoint, and slowly with what is old. Nothing of the writer is used.
"""
