"""marketing: sends what people agreed to, and stops the moment they withdraw.

Reads: `consent.recorded` (leaves and heartbeats), the address from subjects at the moment of sending.
Writes: `ConsentUsed`, `MessageSent`.
Owns: the words in force per subject, permits, effects of withdrawals, campaigns and their deliveries.
An address is held in memory only. A permit is refused unless this service provably knows the newest word.
"""
