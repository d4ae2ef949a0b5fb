-- The state map as it was at one size, so that nobody has to replay the whole log to begin (docs/formats.md §9). It
-- proves itself by its root, which the MAP_ROOT at its end has; one that does not is as if it were not there. So these
-- rows may be changed and deleted at will.
create table map_snapshot (
    shard   integer not null references log,
    size    bigint  not null check (size >= 1),
    part    integer not null check (part >= 0),
    records bytea storage external not null check (length(records) > 0 and length(records) % 80 = 0),
    primary key (shard, size, part)
);

grant select, insert, update, delete on map_snapshot to ledger_append;
grant select on map_snapshot to ledger;
