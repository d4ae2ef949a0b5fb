-- include: shared/outbox/outbox.sql
-- include: shared/follower/follower.sql

-- The newest statement in force on each matter that decides something (shared/events/standing.py).
create table word (
    subject       text   not null,
    matter        text   not null,
    status        text   not null,
    statement     uuid   not null,
    index         bigint not null,
    restricted_at text,
    language      text,
    primary key (subject, matter)
);
create index word_by_matter on word (matter, subject) where status in ('ConsentGiven', 'RenewedConsentGiven');

create table permit (
    id          uuid        primary key,
    subject     text        not null,
    matter      text        not null,
    message_id  text        not null,
    attempt     integer     not null,
    decision    text        not null check (decision in ('granted', 'refused')),
    reason      text        not null,
    relied_on   uuid,
    shard       integer     not null,
    size        bigint      not null,
    all_before  text,
    issued_at   timestamptz not null,
    redeemed_at timestamptz,
    finished_at timestamptz,
    voided_at   timestamptz,
    unique (message_id, attempt),
    check (decision = 'granted' or redeemed_at is null)
);
create index permit_open on permit (subject)
    where decision = 'granted' and voided_at is null and finished_at is null;
create index permit_by_age on permit (issued_at);

-- When a restrictive statement took effect here, and which mails were already on their way.
create table effect (
    statement       uuid        primary key,
    shard           integer     not null,
    index           bigint      not null,
    applied_at      timestamptz not null,
    in_transmission text[]      not null
);

create table campaign (
    name       text        primary key,
    purpose    text        not null,
    channel    text        not null,
    texts      jsonb       not null,
    created_at timestamptz not null
);

create table delivery (
    statement  uuid        primary key,   -- id of its MessageSent; the Message-ID bears it too
    campaign   text        not null references campaign,
    subject    text        not null,
    language   text        not null,
    state      text        not null default 'waiting'
        check (state in ('waiting', 'attempted', 'sent', 'refused', 'unknown', 'skipped')),
    attempt    integer     not null default 0,
    not_before timestamptz not null,
    permit     uuid,
    used       uuid,                      -- id of its ConsentUsed
    reason     text,
    unique (campaign, subject)
);
create index delivery_waiting on delivery (not_before, statement) where state = 'waiting';
create index delivery_attempted on delivery (statement) where state = 'attempted';

-- The audience as Faust counts it: derived, rebuildable, never asked for a permit.
create table audience (
    shard      integer     not null,
    purpose    text        not null,
    channel    text        not null,
    opted_in   bigint      not null,
    primary key (shard, purpose, channel)
);
create table audience_hour (
    shard     integer     not null,
    hour      timestamptz not null,
    type      text        not null,
    count     bigint      not null,
    primary key (shard, hour, type)
);
create table audience_position (
    shard      integer     primary key,
    next       bigint      not null,
    counted_at timestamptz not null
);

grant usage on schema marketing to marketing;
grant select, insert, update, delete on all tables in schema marketing to marketing;
