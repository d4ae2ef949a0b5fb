-- Whose data was ordered to go: how long what only proves is held, and for ever after that the mark that this subject is
-- gone, so that nobody gives it a second K. From `ending_at` on nothing is recorded of it.
create table erasure (
    subject      text primary key check (subject <> '0.system'),
    shard        integer not null references log,
    hold_until   timestamptz not null,             -- the latest of all that was recorded
    completed    bigint,                           -- index of the ErasureCompleted; counts once it is sealed
    ending_at    timestamptz,
    destroyed_at timestamptz,
    check (ending_at is null or completed is not null),
    check (destroyed_at is null or ending_at is not null)
);
create index erasure_open on erasure (shard) where destroyed_at is null;

-- The labels of whoever is at its end, each with a moment of its own: leaves that came together would show a reader of
-- the log which labels belong to one person.
create table ending (
    subject text not null references erasure,
    matter  text not null,
    shard   integer not null references log,
    end_at  timestamptz not null,
    ended   bigint,                                -- index of its ERASURE
    primary key (subject, matter)
);
create index ending_due on ending (shard, end_at) where ended is null;

-- The one way in which a payload or a wrapped key goes. It believes its caller nothing but which rows are the subject's,
-- and takes none that is another's.
create function destroy_subject(erased text, indexes bigint[], attachments bytea[]) returns integer
    language plpgsql security definer set search_path = ledger, pg_temp as $$
declare
    its   erasure;
    taken integer;
begin
    select * into its from erasure where subject = erased for update;
    if not found or its.ending_at is null then
        raise exception 'no erasure of this subject is recorded and due' using errcode = 'integrity_constraint_violation';
    end if;
    if its.hold_until > clock_timestamp() then
        raise exception 'a recorded hold stands' using errcode = 'integrity_constraint_violation';
    end if;
    if exists (
        select from matter m left join ending e using (subject, matter)
        where m.subject = erased and not coalesce(
            e.ended < (select max(size) from checkpoint where shard = its.shard)
            and (select get_byte(b.leaves, ((e.ended - b.first) * 89)::integer) = 3 from leaf_batch b
                 where b.shard = its.shard and b.first <= e.ended and e.ended < b.first + b.n - 1
                 order by b.first desc limit 1), false)
    ) then
        raise exception 'a label of this subject has no sealed ERASURE' using errcode = 'integrity_constraint_violation';
    end if;
    delete from attachment where hash = any(attachments);
    delete from payload where shard = its.shard and index = any(indexes) and subject = erased;
    get diagnostics taken = row_count;
    delete from ending where subject = erased;
    delete from matter where subject = erased;
    delete from subject_key where subject = erased;
    update erasure set destroyed_at = clock_timestamp() where subject = erased and destroyed_at is null;
    return taken;
end
$$;

-- Where an unsealed tail is taken out of the log, what was known from it is known no more.
create function forget_dropped_tail() returns trigger language plpgsql set search_path = ledger, pg_temp as $$
begin
    delete from ending e using erasure r where r.subject = e.subject and r.shard = new.shard and r.completed >= new.kept;
    update erasure set completed = null, ending_at = null where shard = new.shard and completed >= new.kept;
    update ending set ended = null where shard = new.shard and ended >= new.kept;
    return null;
end
$$;
create trigger forget_dropped_tail after insert on dropped_tail for each row execute function forget_dropped_tail();

grant select on erasure, ending to ledger, ledger_append;
grant insert on erasure, ending to ledger_append;
grant update (hold_until, completed, ending_at) on erasure to ledger_append;
grant update (ended) on ending to ledger_append;
grant execute on function destroy_subject(text, bigint[], bytea[]) to ledger_append;
-- A new key-encryption key wraps every living key anew; the old one can then be destroyed.
grant update (wrapped) on subject_key to ledger_append;
