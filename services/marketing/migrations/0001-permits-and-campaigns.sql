-- include: shared/outbox/outbox.sql
-- include: shared/follower/follower.sql

-- One row for each person of whom a word is known: the index of the newest one. The fold locks it first and a permit
-- is stored only while it stands unchanged, so the two never pass each other.
create table standing (
    subject text   primary key,
    newest  bigint not null
);

-- The newest statement in force on each matter that decides something (shared/events/standing.py).
create table word (
    subject       text    not null references standing,
    matter        text    not null,
    status        text    not null,
    statement     uuid    not null,
    index         bigint  not null,
    restricted_at text,
    grade         text    check (grade in ('A', 'B', 'C', 'D')),  -- of a consent's evidence
    language      text,
    primary key (subject, matter)
);
create index word_by_matter on word (matter, subject) where status in ('ConsentGiven', 'RenewedConsentGiven');

-- Recorded requests and archived mails that a consent may follow: what its evidence is graded by.
create table followed (
    statement uuid primary key,
    type      text not null check (type in ('ConsentRequested', 'MessageSent'))
);

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
    redeemed_at timestamptz,                -- used: the mail is on its way from here
    finished_at timestamptz,                -- the mail server's answer is stored, or never will be
    voided_at   timestamptz,                -- withdrawn before it was used, or used and provably nothing left
    unique (message_id, attempt),
    check (decision = 'granted' or (redeemed_at is null and voided_at is null and relied_on is null)),
    check (decision = 'refused' or (relied_on is not null and all_before is not null))
);
create index permit_of on permit (subject) where decision = 'granted';
create index permit_by_age on permit (issued_at);

-- When a restrictive statement took effect here, and which mails were on their way when the person spoke, or after.
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

-- waiting -> attempted -> sent | refused | unknown, and back to waiting when the mail server says not now;
-- waiting -> skipped. Each step names the state it leaves, so that two senders can never both take it.
create table delivery (
    statement  uuid        primary key,     -- id of its MessageSent; the Message-ID bears it too
    campaign   text        not null references campaign,
    subject    text        not null,
    language   text        not null,
    state      text        not null default 'waiting'
        check (state in ('waiting', 'attempted', 'sent', 'refused', 'unknown', 'skipped')),
    attempt    integer     not null default 0,
    not_before timestamptz not null,
    permit     uuid,                        -- the one it was last attempted under
    used       uuid,                        -- id of that ConsentUsed
    archived   jsonb,                       -- the mail as its MessageSent names it
    reason     text,
    unique (campaign, subject),
    check (state <> 'attempted' or (permit is not null and used is not null and archived is not null))
);
create index delivery_waiting on delivery (not_before, statement) where state = 'waiting';
create index delivery_attempted on delivery (statement) where state = 'attempted';

-- The audience as Faust counts it: derived, rebuildable, never asked for a permit.
create table audience (
    shard    integer not null,
    purpose  text    not null,
    channel  text    not null,
    opted_in bigint  not null,
    primary key (shard, purpose, channel)
);
create table audience_hour (
    shard integer     not null,
    hour  timestamptz not null,
    type  text        not null,
    count bigint      not null,
    primary key (shard, hour, type)
);
create table audience_position (
    shard       integer     primary key,
    next        bigint      not null,       -- index of the next record to count
    complete_at timestamptz not null        -- when that was everything that was sealed
);

grant select, insert, update, delete on outbox, outbox_sequence, position, standing, word, permit, delivery to marketing;
grant select, insert, update, delete on audience, audience_hour, audience_position to marketing;
grant select, insert on followed, effect, campaign to marketing;
