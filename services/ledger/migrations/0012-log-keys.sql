-- The keys that sign a log, first to newest (docs/formats.md §23). Two may sign at once, while one takes over.
create table log_key (
    shard    integer not null references log,
    number   integer not null check (number >= 1),
    vkey     text not null unique,
    since    bigint,                               -- size of the first checkpoint it signed; null: none yet
    until    bigint,                               -- size of the last one, once it is retired
    handover text,                                 -- what it and the one before it signed about each other
    primary key (shard, number),
    check ((number = 1) = (handover is null))
);
insert into log_key (shard, number, vkey, since) select shard, 1, vkey, 1 from log;

create function first_log_key() returns trigger language plpgsql set search_path = ledger, pg_temp as $$
begin
    insert into log_key (shard, number, vkey, since) values (new.shard, 1, new.vkey, 1);
    return null;
end
$$;
create trigger first_key after insert on log for each row execute function first_log_key();

-- What a key has begun and ended is written down once.
create function refuse_another_key() returns trigger language plpgsql as $$
begin
    if (new.shard, new.number, new.vkey, new.handover) is distinct from (old.shard, old.number, old.vkey, old.handover)
        or (old.since is not null and new.since is distinct from old.since)
        or (old.until is not null and new.until is distinct from old.until) then
        raise exception 'log_key is never changed' using errcode = 'integrity_constraint_violation';
    end if;
    return new;
end
$$;
create trigger never_another before update on log_key for each row execute function refuse_another_key();
create trigger never_changed before delete on log_key for each row execute function refuse_change();
create trigger never_emptied before truncate on log_key for each statement execute function refuse_change();

grant select on log_key to ledger, ledger_seal;
-- The signer notes with which checkpoint a key has begun.
grant update (since) on log_key to ledger_seal;
