-- include: shared/outbox/outbox.sql
-- include: shared/outbox/progress.sql

-- One order per subject: whoever comes back afterwards is another subject. No address: only the pseudonym.
create table erasure_order (
    request        uuid        primary key,
    subject        text        not null unique,
    statement      uuid        not null,               -- the ErasureOrdered
    evidence_until timestamptz,
    ended          text,                               -- since when the words that were in force are withdrawn
    ordered_at     timestamptz not null,
    completed      uuid,                               -- the ErasureCompleted
    completed_at   timestamptz,
    check ((completed is null) = (completed_at is null))
);
create index erasure_order_open on erasure_order (ordered_at) where completed is null;

-- One per holder.
create table task (
    request   uuid not null references erasure_order,
    holder    text not null,
    state     text not null default 'waiting' check (state in ('waiting', 'working', 'erased', 'recorded', 'rejected')),
    statement uuid,                                    -- its DataErased
    found     integer,                                 -- what was left when it was last asked
    asked_at  timestamptz,
    primary key (request, holder)
);

grant select, insert, update, delete on outbox, outbox_sequence to erasure;
grant select, insert, update on outbox_progress, erasure_order, task to erasure;
