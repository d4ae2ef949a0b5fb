-- Sealed statements that a restore did not get back: what remains of them is their leaf. The erased are among them.
create table lost_record (
    shard   integer not null references log,
    index   bigint not null,
    reason  text not null check (reason in ('no-statement', 'no-key', 'does-not-open', 'erased')),
    lost_at timestamptz not null default clock_timestamp(),
    primary key (shard, index)
);
grant select on lost_record to ledger;
