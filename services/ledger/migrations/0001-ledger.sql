-- The ledger's memory. What proves (leaves, tiles, checkpoints) is only ever added to; what is personal
-- (payloads, wrapped keys, matters) lives in tables of its own, so that it can be destroyed without touching a proof.

create table log (
    shard      integer primary key check (shard >= 0),
    origin     text not null unique,
    vkey       text not null,
    fresh_vkey text not null,
    created_at timestamptz not null default clock_timestamp()
);

-- One row per shard, moved by the appender's compare-and-swap and by nothing else.
create table head (
    shard       integer primary key references log,
    epoch       bigint not null,                   -- raised by whoever claims the shard; fences all others
    size        bigint not null check (size >= 1),
    next_offset bigint not null,                   -- of this shard's partition of consent.stated
    edge        bytea not null,                    -- roots of the perfect subtrees, biggest first
    map_root    bytea not null,
    recorded_at bigint not null                    -- ms since 1970 of the last batch; never goes back
) with (fillfactor = 20);

-- One row per batch: its leaves joined (their sizes follow from their types), the last one a MAP_ROOT; and the root
-- of the tree up to here as the appender computed it, for the signer to compute again. (A leaf that a later one of
-- its batch supersedes is in no map root.)
create table leaf_batch (
    shard  integer not null references log,
    first  bigint not null check (first >= 0),
    n      integer not null check (n > 0),
    leaves bytea storage external not null,
    root   bytea not null check (length(root) = 32),
    primary key (shard, first)
);

-- Full tiles only; a partial one is computed when asked for.
create table tile (
    shard  integer not null references log,
    level  smallint not null check (level between 0 and 63),
    n      bigint not null check (n >= 0),
    hashes bytea storage external not null check (length(hashes) = 8192),
    primary key (shard, level, n)
);

-- The four tables of a record have no foreign keys: a check per row would cost more than all else about it.

-- Which statement stands at which index. The hash tells a repetition from another statement under the same name;
-- it survives erasure, like the id it belongs to (both are as random as the id's 74 random bits).
create table seen (
    shard          integer not null,
    id             uuid not null,
    source         text not null,
    index          bigint not null,
    sequence       bigint not null,
    statement_hash bytea not null check (length(statement_hash) = 32),
    primary key (shard, id, source)
);

create table payload (
    shard   integer not null,
    index   bigint not null,
    subject text not null,
    payload bytea storage external not null,
    primary key (shard, index)
);

create table subject_key (
    subject text primary key,
    shard   integer not null,
    wrapped bytea not null check (length(wrapped) = 64)
);

-- What each subject has labels about; on matters that decide, the latest time of any restrictive statement.
create table matter (
    subject       text not null,
    matter        text not null,
    shard         integer not null,
    restricted_at text collate "C",
    primary key (subject, matter)
);

-- Messages that could not be recorded. The bytes are kept only if the MAC proved who said them and they are no larger
-- than a statement.
create table rejected (
    number         bigint generated always as identity primary key,
    shard          integer not null references log,
    stated_offset  bigint not null,                -- the newest message of this kind
    source         text,
    sequence       bigint,
    statement_id   text,
    reason         text not null,
    statement_hash bytea not null,
    statement_size integer not null,
    statement      bytea,
    times          integer not null default 1,
    first_at       timestamptz not null default clock_timestamp(),
    last_at        timestamptz not null default clock_timestamp(),
    handled_at     timestamptz,
    handled_by     text,
    handled_reason text,
    unique nulls not distinct (shard, source, sequence, statement_hash, reason)
);

-- How current each source is known to be: its newest `alive`.
create table source_mark (
    shard      integer not null references log,
    source     text not null,
    sequence   bigint not null,
    all_before timestamptz not null,
    primary key (shard, source)
) with (fillfactor = 50);

-- Highest contiguous sequence of a source once the log had `size` leaves: sealed as soon as that size is.
create table progress (
    shard      integer not null references log,
    source     text not null,
    size       bigint not null,
    contiguous bigint not null,
    primary key (shard, source, size)
) with (fillfactor = 50);

-- Sequences that arrived beyond a gap; they go when the gap closes.
create table arrived (
    shard    integer not null references log,
    source   text not null,
    sequence bigint not null,
    primary key (shard, source, sequence)
);

create table overtaken (
    shard    integer not null references log,
    source   text not null,
    sequence bigint not null,
    id       uuid not null,
    index    bigint not null,
    primary key (shard, index)
);
create index overtaken_of_source on overtaken (shard, source, sequence);

-- What a person should look at. No status is green while one is open.
create table incident (
    number        bigint generated always as identity primary key,
    shard         integer not null references log,
    kind          text not null,
    about         text not null,
    detail        text not null default '',
    opened_at     timestamptz not null default clock_timestamp(),
    closed_at     timestamptz,
    closed_by     text,
    closed_reason text
);
create unique index open_incident on incident (shard, kind, about) where closed_at is null;

-- Every checkpoint the log's key ever signed. Each names the one before, and no two name the same: a chain.
create table checkpoint (
    shard     integer not null references log,
    size      bigint not null check (size >= 1),
    previous  bigint check (previous < size),
    root      bytea not null check (length(root) = 32),
    note      text not null,                       -- three lines, an empty one, the log's signature line
    signed_at timestamptz not null default clock_timestamp(),
    primary key (shard, size),
    unique nulls not distinct (shard, previous),
    foreign key (shard, previous) references checkpoint
);

-- The newest cosignature line of the key <origin>/fresh, over the newest checkpoint.
create table fresh (
    shard     integer primary key references log,
    size      bigint not null,
    line      text not null,
    signed_at timestamptz not null,
    foreign key (shard, size) references checkpoint (shard, size)
) with (fillfactor = 20);

-- How far each log is published on consent.recorded.
create table cursor (
    shard integer primary key references log,
    next  bigint not null
) with (fillfactor = 20);

create table attachment (
    hash       bytea primary key check (length(hash) = 32),
    content    bytea storage external not null check (length(content) <= 10485760),
    created_at timestamptz not null default clock_timestamp()
);

-- For superusers' mistakes: the roles below have no right to do this in the first place.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is never changed or deleted', tg_table_name using errcode = 'integrity_constraint_violation';
end
$$;

create trigger never_changed before update or delete on log for each row execute function refuse_change();
create trigger never_changed before update or delete on leaf_batch for each row execute function refuse_change();
create trigger never_changed before update or delete on tile for each row execute function refuse_change();
create trigger never_changed before update or delete on checkpoint for each row execute function refuse_change();
create trigger never_changed before update on payload for each row execute function refuse_change();
create trigger never_changed before update or delete on seen for each row execute function refuse_change();
create trigger never_emptied before truncate on log for each statement execute function refuse_change();
create trigger never_emptied before truncate on leaf_batch for each statement execute function refuse_change();
create trigger never_emptied before truncate on tile for each statement execute function refuse_change();
create trigger never_emptied before truncate on checkpoint for each statement execute function refuse_change();
create trigger never_emptied before truncate on seen for each statement execute function refuse_change();

-- API: reads everything, stores attachments, notes who dealt with a reject or closed an incident.
grant select on all tables in schema ledger to ledger;
grant insert on attachment to ledger;
grant update (handled_at, handled_by, handled_reason) on rejected to ledger;
grant update (closed_at, closed_by, closed_reason) on incident to ledger;

-- Appender: adds to the log, cannot sign. It sees the sealed size, to forget progress that is sealed.
grant select on all tables in schema ledger to ledger_append;
revoke select on attachment from ledger_append;
grant update (epoch, size, next_offset, edge, map_root, recorded_at) on head to ledger_append;
grant insert on leaf_batch, tile, seen, payload, subject_key, matter, rejected, source_mark, progress, arrived,
    overtaken, incident to ledger_append;
grant update (restricted_at) on matter to ledger_append;
grant update (stated_offset, times, last_at) on rejected to ledger_append;
grant update (sequence, all_before) on source_mark to ledger_append;
grant update (contiguous) on progress to ledger_append;
grant delete on progress, arrived to ledger_append;
grant update (closed_at, closed_by, closed_reason) on incident to ledger_append;

-- Signer: reads leaves and signs, cannot append.
grant select on log, head, leaf_batch, checkpoint, fresh, incident to ledger_seal;
grant insert on checkpoint, fresh, incident to ledger_seal;
grant update (size, line, signed_at) on fresh to ledger_seal;
grant update (closed_at, closed_by, closed_reason) on incident to ledger_seal;

-- Publisher: reads what is sealed, moves its cursor.
grant select on log, leaf_batch, payload, subject_key, checkpoint, fresh, source_mark, cursor to ledger_publish;
grant update (next) on cursor to ledger_publish;
