-- Sealed statements that a restore did not get back: what remains of them is their leaf. The erased are among them.
create table lost_record (
    shard   integer not null references log,
    index   bigint not null,
    reason  text not null check (reason in ('no-statement', 'no-key', 'does-not-open', 'erased')),
    lost_at timestamptz not null default clock_timestamp(),
    primary key (shard, index)
);
grant select on lost_record to ledger;

-- What the file of keys beside the signer's leaves hangs on: while it needs an older key-encryption key, that one stays.
create table key_file (
    shard      integer primary key references log,
    oldest_kek bigint not null
);
grant select, insert, update on key_file to ledger_seal;
grant select on key_file to ledger;
