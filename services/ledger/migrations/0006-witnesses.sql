-- Witnesses (docs/formats.md §24): who is asked to cosign our checkpoints, and what each has last said.
create table witness (
    shard     integer not null references log,
    key       text not null,                       -- <key name>+<key id>
    name      text not null,                       -- in our policy, for people
    size      bigint,                              -- of the newest checkpoint it cosigned
    line      text,                                -- its newest cosignature, over that checkpoint
    signed_at timestamptz,                         -- by its clock
    added_at  timestamptz not null default clock_timestamp(),
    primary key (shard, key)
) with (fillfactor = 50);

-- The first cosignature of each witness over each checkpoint it cosigned: no checkpoint is younger than that.
create table cosignature (
    shard     integer not null,
    size      bigint not null,
    key       text not null,
    line      text not null,
    signed_at timestamptz not null,
    quorum    boolean not null,                    -- with this one, and those before, our policy was satisfied
    primary key (shard, size, key),
    foreign key (shard, size) references checkpoint (shard, size)
);
create index cosigned on cosignature (shard, size) where quorum;

create trigger never_changed before update or delete on cosignature for each row execute function refuse_change();
create trigger never_emptied before truncate on cosignature for each statement execute function refuse_change();

grant select on witness, cosignature to ledger;
-- The publisher hands the checkpoints on: it needs tiles for the proofs, and says so when a witness contradicts us.
grant select on witness, cosignature, tile to ledger_publish;
grant insert on witness, cosignature, incident to ledger_publish;
grant update (name, size, line, signed_at) on witness to ledger_publish;
grant delete on witness to ledger_publish;
