-- The outbox of a service that states facts. A handler puts statements here in the transaction of its own rows;
-- from then on nothing is lost. The relay (shared/outbox/relay.py) numbers, sends and ticks them off.

create table outbox (
    id          uuid        primary key,                               -- the statement's own id
    shard       integer     not null check (shard >= 0),
    sequence    bigint      check (sequence >= 1),                     -- per (source, shard), given by the relay
    statement   bytea       not null,                                  -- final: these bytes are what is hashed
    accepted_at timestamptz not null default clock_timestamp(),
    sent_at     timestamptz,                                           -- last time Kafka acknowledged it
    sealed_at   timestamptz,                                           -- the ledger said so: done
    result      text        check (result in ('recorded', 'overtaken', 'rejected')),
    index       bigint,
    reason      text,
    unique (shard, sequence),
    check ((sealed_at is null) = (result is null)),
    check (sequence is not null or sent_at is null)
);
create index outbox_unnumbered on outbox (accepted_at, id) where sequence is null;
create index outbox_unsent on outbox (shard, sequence) where sequence is not null and sent_at is null;
create index outbox_unsealed on outbox (shard, sequence) where sealed_at is null;
create index outbox_done on outbox (sealed_at) where sealed_at is not null;
create index outbox_rejected on outbox (sealed_at) where result = 'rejected';

-- The highest number ever given. Numbers are never given twice, not even after rows are deleted.
create table outbox_sequence (
    shard integer primary key check (shard >= 0),
    last  bigint  not null check (last >= 0)
);

-- The mark "everything accepted before t is sealed" is only true if PostgreSQL itself ends every accepting
-- transaction two seconds after its acceptance time was read, and if the transaction can be seen to run from
-- before that moment: hence the timeout, and an id given to the transaction before the row's default is evaluated.
create function outbox_accepting() returns trigger language plpgsql as $$
begin
    if extract(epoch from current_setting('transaction_timeout')::interval) not between 0.001 and 2 then
        raise exception 'statements are accepted only under a transaction_timeout of at most 2 s';
    end if;
    perform pg_current_xact_id();
    return null;
end $$;
create trigger outbox_accepting before insert on outbox for each statement execute function outbox_accepting();

-- What is stated stays stated: neither the bytes, nor the number once given, nor a row that is not done.
create function outbox_final() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        if old.sealed_at is null then
            raise exception 'a statement that is not sealed is never deleted';
        end if;
        return old;
    end if;
    if (new.id, new.shard, new.statement, new.accepted_at) is distinct from (old.id, old.shard, old.statement, old.accepted_at)
        or (old.sequence is not null and new.sequence is distinct from old.sequence)
        or (old.sealed_at is not null and new.sealed_at is null)
    then
        raise exception 'a statement in the outbox is final';
    end if;
    return new;
end $$;
create trigger outbox_final before update or delete on outbox for each row execute function outbox_final();
