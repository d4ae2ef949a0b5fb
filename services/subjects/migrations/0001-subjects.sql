-- include: shared/follower/follower.sql

-- A contact point's pseudonym. The row outlives its keys, so that an erased subject answers "gone", never "unknown".
create table subject (
    id         text primary key check (id ~ '^(0|[1-9][0-9]{0,9})\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'),
    controller text not null
);

-- No row for `content`: the subject is erased. kek id u32 || nonce 12 || ciphertext 32 || tag 16.
create table subject_key (
    subject text    not null references subject,
    use     text    not null check (use in ('content', 'evidence')),
    kek     bigint  not null,
    wrapped bytea   not null check (length(wrapped) = 64),
    primary key (subject, use)
);
create index subject_key_by_kek on subject_key (kek);

-- Which peppers this database was ever written with. A process that lacks one, or has another under its number,
-- would not recognise anybody and give everybody a second pseudonym: it refuses to start.
create table pepper (
    number      integer primary key,
    fingerprint bytea   not null check (length(fingerprint) = 32)
);

-- HMAC-SHA-256(pepper, controller, kind, normalised value). The primary key decides who creates a subject.
create table identifier (
    pepper  integer not null references pepper,
    digest  bytea   not null check (length(digest) = 32),
    subject text    not null references subject,
    primary key (pepper, digest)
);
create unique index identifier_by_subject on identifier (subject, pepper);

-- The address as first typed and its normalised form, under the content key: nonce 12 || ciphertext || tag 16.
create table contact_point (
    subject text  primary key references subject,
    sealed  bytea not null
);

-- What was sealed: enough to answer the same again (the nonce) and to refuse anything else (the keyed MAC of the
-- plaintext), and nothing of the content. Never updated or deleted: a second nonce or a second plaintext under one
-- compartment key would break AES-GCM.
create table compartment (
    statement     uuid  not null,
    name          text  not null check (name ~ '^(evidence|brief|attachment/[0-9])$'),
    subject       text  not null references subject,
    nonce         bytea not null check (length(nonce) = 12),
    plaintext_mac bytea not null check (length(plaintext_mac) = 32),
    primary key (statement, name)
);

-- Who is not to be written to, whether or not we still know them: HMAC(pepper, index digest, purpose, channel),
-- so no reference to a subject, and no two rows of one person can be told to belong together. purpose and channel
-- are both '*' for everything. The row with the highest ordinal among those that apply decides; `suppressed = false`
-- exempts one purpose from an older '*'.
create sequence suppression_ordinal as bigint;
create table suppression (
    pepper     integer not null references pepper,
    digest     bytea   not null check (length(digest) = 32),
    purpose    text    not null,
    channel    text    not null,
    suppressed boolean not null,
    ordinal    bigint  not null,
    since      date    not null,
    primary key (pepper, digest),
    check ((purpose = '*') = (channel = '*')),
    check (suppressed or purpose <> '*')   -- no one consents to everything
);
create index suppression_scopes on suppression (pepper, purpose, channel);

-- The newest statement in force on each matter that decides something (shared/events/standing.py).
create table word (
    subject       text   not null,
    matter        text   not null,
    status        text   not null,
    statement     uuid   not null,
    index         bigint not null,
    restricted_at text,
    primary key (subject, matter)
);

-- Every compartment key that ever left, to whom and why.
create table disclosure (
    id        uuid        not null,
    at        timestamptz not null,
    caller    text        not null,
    scope     text        not null,
    reason    text        not null,
    subject   text        not null references subject,
    statement uuid        not null,
    name      text        not null,
    primary key (id, statement, name),
    foreign key (statement, name) references compartment (statement, name)
);
create index disclosure_by_subject on disclosure (subject);

grant select, insert on subject, subject_key, pepper, identifier, contact_point, compartment, disclosure to subjects;
grant update (kek, wrapped) on subject_key to subjects;
grant select, insert on suppression to subjects;
grant update (suppressed, ordinal, since) on suppression to subjects;
grant usage on sequence suppression_ordinal to subjects;
grant select, insert on word, position to subjects;
grant update (next, applied_at) on position to subjects;
grant update (status, statement, index, restricted_at) on word to subjects;
