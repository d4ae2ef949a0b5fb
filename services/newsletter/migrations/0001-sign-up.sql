-- include: shared/outbox/outbox.sql

-- Which notices were published: one row a text, written before it is served for the first time.
create table notice (
    hash         text        primary key check (hash ~ '^[0-9a-f]{64}$'),
    statement    uuid        not null,
    published_at timestamptz not null
);

-- One form that was sent, from sign-up to confirmation, expiry or withdrawal. No address: only the pseudonym.
create table request (
    id           uuid        primary key,                     -- the act: shared by all its statements
    form_key     text        not null unique,                 -- from the served notice's nonce, subject and ticks: a form counts once
    subject      text        not null,
    language     text        not null,
    notice       text        not null,
    served       text,                                        -- the served-notice token as it came back
    verified     boolean     not null,
    token_hash   bytea       not null unique check (octet_length(token_hash) = 32),
    state        text        not null default 'open' check (state in ('open', 'confirmed', 'expired', 'voided')),
    requested_at timestamptz not null,
    expires_at   timestamptz not null,
    purge_at     timestamptz not null,
    decided_at   timestamptz,
    check ((state = 'open') = (decided_at is null))
);
create index request_open on request (expires_at) where state = 'open';
create index request_open_of on request (subject) where state = 'open';
create index request_unconfirmed on request (purge_at) where state in ('expired', 'voided');

create table request_purpose (
    request  uuid     not null references request on delete cascade,
    position smallint not null,
    purpose  text     not null,
    channel  text     not null,
    asked    uuid     not null unique,                        -- its ConsentRequested
    given    uuid     unique,                                 -- its ConsentGiven
    primary key (request, purpose, channel)
);

-- The queue of transactional mails. What a mail needs is sealed by subjects and gone once the mail is.
create table mail (
    id              uuid        primary key,                  -- of its MessageSent; the Message-ID bears it too
    kind            text        not null check (kind in ('confirmation', 'welcome')),
    request         uuid        not null references request on delete cascade,
    state           text        not null
        check (state in ('held', 'waiting', 'accepted', 'refused', 'unknown', 'dropped')),
    cancelled       boolean     not null default false,
    brief           bytea,                                    -- sealed: what only this mail may say
    brief_key_hash  text,
    letter_id       uuid,                                     -- sealed under this id: the mail's exact bytes
    letter          bytea,
    letter_key_hash text,
    attachment      jsonb,                                    -- the archived mail, as its MessageSent names it
    recorded        uuid[],                                   -- of a welcome: the consents that took effect
    attempts        integer     not null default 0,
    handed_at       timestamptz,                              -- on its way to the mail server, answer not yet known
    next_attempt_at timestamptz not null,
    created_at      timestamptz not null,
    ended_at        timestamptz,
    check ((state in ('held', 'waiting')) = (ended_at is null)),
    check (ended_at is null or (brief is null and letter is null))
);
create index mail_waiting on mail (next_attempt_at) where state = 'waiting';
create index mail_held on mail (created_at) where state = 'held';
create index mail_of_request on mail (request);

-- What a way out did, so that the same link answers the same. A new confirmation deletes the person's rows: from then
-- on an old link is a new act.
create table withdrawal (
    token_hash bytea       not null check (octet_length(token_hash) = 32),
    scope      text        not null check (scope in ('purpose', 'everything')),
    subject    text        not null,
    statements uuid[]      not null,
    at         timestamptz not null,
    primary key (token_hash, scope)
);
create index withdrawal_of on withdrawal (subject);

grant select, insert, update, delete on outbox, outbox_sequence, request, request_purpose, mail, withdrawal to newsletter;
grant select, insert on notice to newsletter;
