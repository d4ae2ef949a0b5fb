-- The check that runs close behind the signer (services/ledger/integrity/running.py). It reads everything; of what it
-- finds it leaves a word for a person, and how far it has come.
alter table log_check
    add column followed    bigint not null default 0,          -- leaves under the newest checkpoint it has checked
    add column followed_at timestamptz;                        -- when that was everything that was sealed

grant select on all tables in schema ledger to ledger_check;
grant insert on incident, log_check to ledger_check;
grant update on log_check to ledger_check;

-- Numbers of a source under which no statement and no reject of their own stand: something was repeated under a new
-- number, or a person has given up what is missing in this range (which takes a closed incident, too).
create table empty_number (
    shard  integer not null references log,
    source text not null,
    first  bigint not null,
    last   bigint not null check (last >= first),
    why    text not null check (why in ('repetition', 'given-up')),
    primary key (shard, source, first, why)
);
-- What was given up before this file is not known any more number by number.
insert into empty_number (shard, source, first, last, why)
select i.shard, i.about, 1, p.contiguous, 'given-up'
from (select distinct shard, about from incident where kind = 'sequence-gap' and closed_by <> 'ledger') i
    join (select shard, source, max(contiguous) as contiguous from progress group by shard, source) p
        on p.shard = i.shard and p.source = i.about and p.contiguous > 0;

grant select on empty_number to ledger, ledger_append, ledger_check;
grant insert on empty_number to ledger_append;
