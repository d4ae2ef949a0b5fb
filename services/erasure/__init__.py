"""Makes people forgotten, and can show that it did: an order, a task for each holder, and a word when all are done.

Reads: orders over HTTP from compliance and from collectors; the subject's history from the ledger; holders' answers.
Writes: ErasureOrdered, ErasureHeld, ErasureCompleted to `consent.stated`; `POST /<holder>/erase` to each holder.
Owns: orders and tasks, by pseudonym. What proves is held as long as the register says, and destroyed by its keepers:
the evidence key by subjects, the ledger's key and statements by the ledger, on the recorded word alone.
"""
