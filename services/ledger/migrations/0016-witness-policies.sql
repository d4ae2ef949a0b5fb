-- By which policy (docs/formats.md §23) the witnesses of a log were a quorum, from which size on: so that a cosignature
-- can still be judged when its witness is asked no more. Without addresses; octets above 7f as latin-1.
create table witness_policy (
    shard    integer not null references log,
    number   integer not null check (number > 0),
    policy   text not null,
    since    bigint not null,                      -- leaves that were signed when it came in force; 0: nobody had cosigned
    noted_at timestamptz not null default clock_timestamp(),
    primary key (shard, number)
);

create trigger never_changed before update or delete on witness_policy for each row execute function refuse_change();
create trigger never_emptied before truncate on witness_policy for each statement execute function refuse_change();

grant select on witness_policy to ledger, ledger_check;
grant select, insert on witness_policy to ledger_publish;
