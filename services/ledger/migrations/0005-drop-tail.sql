-- What the signer refused to sign can be taken out of the log again, by one procedure and by nobody who serves.

-- Where the appender went on from after this batch; null in those from before this file, and in leaf 0.
alter table leaf_batch add column next_offset bigint;

-- What was taken out, for inspection. Payloads stay under the keys of their subjects, which stay where they were:
-- whoever's key is destroyed cannot be read here either.
create table dropped_tail (
    number        bigint generated always as identity primary key,
    shard         integer not null references log,
    kept          bigint not null,                  -- leaves that were sealed, and stay
    size          bigint not null,                  -- leaves there were
    offset_before bigint not null,
    offset_after  bigint not null,
    epoch         bigint not null,
    dropped_by    text not null check (dropped_by <> ''),
    reason        text not null check (reason <> ''),
    dropped_at    timestamptz not null default clock_timestamp()
);
create table dropped_row (
    tail    bigint not null references dropped_tail,
    source  text not null,
    content jsonb not null
);

-- Removes what lies above the sealed size, and nothing below. It believes the caller nothing that it can see itself:
-- that the signer has stopped the shard, which size is sealed, that the kept batches end there, and that `p_edge` folds
-- to the root that was signed. Only what follows from the subjects' keys it must be told, for it has no keys: on which
-- matters something stays (`p_stays`), and when they were last restricted by what stays; and whose key does not open
-- (`p_unreadable`): that goes, if nothing that stays is sealed under it.
--
-- Its caller is the superuser of `log drop-tail`, as `owner`. No service may execute it (functions are granted to
-- nobody by default), and none could: it switches triggers off, which only the owner of a table can.
create function drop_tail(
    p_shard integer, p_keep bigint, p_edge bytea,
    p_subjects text[], p_matters text[], p_stays boolean[], p_restricted text[], p_unreadable text[],
    p_by text, p_reason text
) returns bigint language plpgsql set search_path = ledger, pg_temp as $$
declare
    was    head;
    sealed checkpoint;
    last   leaf_batch;
    root   bytea;
    width  integer := length(p_edge) / 32;
    tables text[] := array['leaf_batch', 'tile', 'seen', 'payload', 'subject_key', 'matter', 'overtaken', 'progress',
                           'arrived', 'rejected'];
    name   text;
    goes_on bigint;
    tail   bigint;
begin
    -- The appender first, which begins with its head; then the signer. Whoever was at it has ended now.
    lock table head in exclusive mode;
    lock table checkpoint, fresh in exclusive mode;
    foreach name in array tables loop
        execute format('lock table %I in exclusive mode', name);
    end loop;

    if not exists (select from incident
                   where shard = p_shard and kind = 'signer-disagrees' and closed_at is null) then
        raise exception 'the signer has not stopped shard %', p_shard using errcode = 'object_not_in_prerequisite_state';
    end if;
    select * into strict was from head where shard = p_shard;
    select * into strict sealed from checkpoint where shard = p_shard order by size desc limit 1;
    if sealed.size <> p_keep then
        raise exception '% leaves are sealed, not %', sealed.size, p_keep
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    if was.size < p_keep then
        raise exception 'there are % leaves, % are sealed', was.size, p_keep
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    select * into strict last from leaf_batch where shard = p_shard and first < p_keep order by first desc limit 1;
    if last.first + last.n <> p_keep or last.root <> sealed.root
        or get_byte(last.leaves, length(last.leaves) - 57) <> 2 then
        raise exception 'no batch ends at leaf % as it was signed', p_keep
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    if length(p_edge) <> 32 * bit_count(p_keep::bit(64)) then
        raise exception 'the edge is not one of % leaves', p_keep using errcode = 'invalid_parameter_value';
    end if;
    root := substring(p_edge from 32 * width - 31 for 32);
    for place in reverse width - 1 .. 1 loop
        root := sha256('\x01'::bytea || substring(p_edge from 32 * place - 31 for 32) || root);
    end loop;
    if root <> sealed.root then
        raise exception 'the edge does not have the root that was signed' using errcode = 'invalid_parameter_value';
    end if;
    if (select next from cursor where shard = p_shard) > p_keep then
        raise exception 'more was published than is sealed' using errcode = 'object_not_in_prerequisite_state';
    end if;

    -- From a topic that was made anew since, the old offset says nothing: then from its beginning.
    goes_on := case when last.next_offset <= was.next_offset then last.next_offset else 0 end;
    insert into dropped_tail (shard, kept, size, offset_before, offset_after, epoch, dropped_by, reason)
    values (p_shard, p_keep, was.size, was.next_offset, coalesce(goes_on, 0), was.epoch, p_by, p_reason)
    returning number into tail;

    foreach name in array tables loop
        execute format('alter table %I disable trigger user', name);
    end loop;

    with gone as (delete from leaf_batch where shard = p_shard and first >= p_keep returning *)
    insert into dropped_row select tail, 'leaf_batch', to_jsonb(gone) from gone;
    with gone as (delete from tile where shard = p_shard and (n + 1) * power(256::numeric, level + 1) > p_keep
                  returning *)
    insert into dropped_row select tail, 'tile', to_jsonb(gone) from gone;
    with gone as (delete from seen where shard = p_shard and index >= p_keep returning *)
    insert into dropped_row select tail, 'seen', to_jsonb(gone) from gone;
    with gone as (delete from payload where shard = p_shard and index >= p_keep returning *)
    insert into dropped_row select tail, 'payload', to_jsonb(gone) from gone;
    with gone as (delete from subject_key k where shard = p_shard and subject = any(p_unreadable)
                    and not exists (select from payload p where p.shard = p_shard and p.subject = k.subject)
                  returning *)
    insert into dropped_row select tail, 'subject_key', to_jsonb(gone) from gone;
    with gone as (delete from overtaken where shard = p_shard and index >= p_keep returning *)
    insert into dropped_row select tail, 'overtaken', to_jsonb(gone) from gone;
    with gone as (delete from progress where shard = p_shard and size > p_keep returning *)
    insert into dropped_row select tail, 'progress', to_jsonb(gone) from gone;

    -- What was rejected since and comes again is judged again; what a person has dealt with, and what nobody sends
    -- again, stays.
    with gone as (delete from rejected
                  where shard = p_shard and stated_offset >= coalesce(goes_on, 0) and first_at > sealed.signed_at
                    and times = 1 and sequence > 0 and handled_at is null returning *)
    insert into dropped_row select tail, 'rejected', to_jsonb(gone) from gone;

    insert into dropped_row
    select tail, 'matter', to_jsonb(m) from matter m
        join unnest(p_subjects, p_matters, p_stays, p_restricted) t (subject, matter, stays, restricted_at)
            on m.subject = t.subject and m.matter = t.matter
    where m.shard = p_shard and (not t.stays or m.restricted_at is distinct from t.restricted_at);
    delete from matter m using unnest(p_subjects, p_matters, p_stays) t (subject, matter, stays)
    where m.shard = p_shard and m.subject = t.subject and m.matter = t.matter and not t.stays;
    update matter m set restricted_at = t.restricted_at
    from unnest(p_subjects, p_matters, p_stays, p_restricted) t (subject, matter, stays, restricted_at)
    where m.shard = p_shard and m.subject = t.subject and m.matter = t.matter and t.stays
      and m.restricted_at is distinct from t.restricted_at;

    -- What had arrived beyond a gap before the tail has arrived still, though the gap may have closed within the tail.
    with gone as (delete from arrived where shard = p_shard returning *)
    insert into dropped_row select tail, 'arrived', to_jsonb(gone) from gone;
    insert into arrived (shard, source, sequence)
    select distinct p_shard, a.source, a.sequence
    from (select source, sequence from seen where shard = p_shard and sequence > 0
          union select source, sequence from rejected where shard = p_shard and sequence > 0 and source is not null) a
        left join lateral (select contiguous from progress p where p.shard = p_shard and p.source = a.source
                           order by p.size desc limit 1) p on true
    where a.sequence > coalesce(p.contiguous, 0);
    -- A gap without an incident would be taken for one that a person has closed.
    insert into incident (shard, kind, about, detail)
    select p_shard, 'sequence-gap', a.source, 'open again: the tail of the log was dropped'
    from (select distinct source from arrived where shard = p_shard) a
    where coalesce((select closed_by from incident i
                    where i.shard = p_shard and i.kind = 'sequence-gap' and i.about = a.source
                    order by number desc limit 1), 'ledger') = 'ledger'
    on conflict do nothing;

    foreach name in array tables loop
        execute format('alter table %I enable trigger user', name);
    end loop;

    update head set epoch = was.epoch + 1, size = p_keep, edge = p_edge, next_offset = coalesce(goes_on, 0),
        map_root = substring(last.leaves from length(last.leaves) - 47 for 32),
        recorded_at = case when p_keep = 1 then 0 else
            ('x' || encode(substring(last.leaves from length(last.leaves) - 64 for 8), 'hex'))::bit(64)::bigint end
    where shard = p_shard;

    update incident set closed_at = clock_timestamp(), closed_by = p_by, closed_reason = p_reason
    where shard = p_shard and kind = 'signer-disagrees' and closed_at is null;
    insert into incident (shard, kind, about, detail)
    values (p_shard, 'tail-dropped', 'tail ' || tail,
            format('leaves %s to %s were taken out; consent.stated is read again from offset %s, before %s',
                   p_keep, was.size - 1, coalesce(goes_on, 0), was.next_offset));
    return tail;
end
$$;
