-- include: shared/outbox/outbox.sql
-- include: shared/outbox/progress.sql
-- include: shared/holder.sql

-- Whoever may delete, and whatever they think: a key goes only where an erasure is marked, the evidence key only once
-- its period is over.
create function kept_until_erased() returns trigger language plpgsql set search_path = subjects, pg_temp as $$
begin
    if not exists (
        select from erased where subject = old.subject
            and (old.use = 'content' or coalesce(evidence_until, '-infinity') <= clock_timestamp())
    ) then
        raise exception 'no erasure of this key is due' using errcode = 'integrity_constraint_violation';
    end if;
    return old;
end
$$;
create trigger kept_until_erased before delete on subject_key for each row execute function kept_until_erased();

grant select, insert, update, delete on outbox, outbox_sequence to subjects;
grant select, insert, update on outbox_progress, erased to subjects;
grant delete on subject_key, contact_point, identifier, word to subjects;
