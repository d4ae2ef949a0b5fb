"""newsletter: asks people whether they want it, confirms by double opt-in, and takes every withdrawal.

reads   the register (notice, purposes, periods), its own tables; asks subjects to seal and open, the ledger what is
        sealed, marketing whether a withdrawal has taken effect
writes  NoticePublished, ConsentRequested, ConsentRefused, ConsentGiven, ConsentWithdrawn, ConsentExpired, MessageSent
        (confirmation, welcome), RetentionExecuted; archived mails to the ledger's attachments
owns    /newsletter, the schema newsletter, the queue of transactional mails
"""
