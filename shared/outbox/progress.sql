-- Follows outbox.sql. A row of the outbox is written three times: accepted, numbered, done. How far a shard is sent
-- and sealed is said once for all of its rows, because numbers have no gap; and no index names what the third write
-- changes, so that it can do without any (PostgreSQL calls it HOT).

create table outbox_progress (
    shard    integer primary key check (shard >= 0),
    sent     bigint  not null default 0,        -- Kafka has acknowledged every number up to this one
    sealed   bigint  not null default 0,        -- the ledger has sealed, or rejected, every number up to this one
    rejected bigint  not null default 0,        -- how many of these it has rejected
    tidied   bigint  not null default 0,        -- every row up to this number is deleted, or kept for ever
    check (tidied <= sealed and sealed <= sent)
) with (fillfactor = 20);

insert into outbox_progress (shard, sealed, sent, rejected)
select shard, sealed, greatest(sealed, coalesce(sent, 0)), rejected
from (
    select c.shard, coalesce(min(o.sequence) filter (where o.sealed_at is null) - 1, c.last) as sealed,
        max(o.sequence) filter (where o.sent_at is not null) as sent,
        count(*) filter (where o.result = 'rejected') as rejected
    from outbox_sequence c left join outbox o on o.shard = c.shard and o.sequence is not null
    group by c.shard, c.last
) as standing;

drop index outbox_unsent, outbox_unsealed, outbox_done, outbox_rejected;
alter table outbox drop column sent_at, drop constraint outbox_shard_sequence_key;
-- Without what is not numbered yet: that would be an entry more for every row.
create unique index outbox_numbered on outbox (shard, sequence) where sequence is not null;

-- Most of a statement is ciphertext: trying to compress it finds nothing.
alter table outbox alter column statement set storage external;

-- As before, at a lower price: a column that an update does not name is not compared.
drop trigger outbox_final on outbox;
drop function outbox_final;
create function outbox_final() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' then
        raise exception 'a statement that is not sealed is never deleted';
    end if;
    raise exception 'a statement in the outbox is final';
end $$;
create trigger outbox_stated before update of id, shard, statement, accepted_at on outbox
    for each row execute function outbox_final();
create trigger outbox_numbered before update on outbox for each row
    when (old.sequence is not null and new.sequence is distinct from old.sequence
          or old.sealed_at is not null and new.sealed_at is null)
    execute function outbox_final();
create trigger outbox_kept before delete on outbox for each row
    when (old.sealed_at is null) execute function outbox_final();
