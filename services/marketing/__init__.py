"""marketing: sends what people agreed to, and stops the moment they withdraw.

reads   `consent.recorded` (leaves and heartbeats); an address from subjects, at the moment of sending only
writes  ConsentUsed, MessageSent; archived mails to the ledger's attachments
owns    /marketing, the schema marketing: the words in force, permits, effects of withdrawals, campaigns, the audience

A permit is refused unless this service provably knows the newest word. The audience is counted by Faust in a process
of its own and never asked for a permit.
"""
