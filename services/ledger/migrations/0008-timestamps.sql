-- What a time-stamp authority (RFC 3161) has said of our checkpoints: its whole answer.
create table stamp (
    shard      integer not null,
    size       bigint not null,
    answer     bytea not null,
    stamped_at timestamptz not null,               -- by the authority's clock
    primary key (shard, size),
    foreign key (shard, size) references checkpoint (shard, size)
);

create trigger never_changed before update or delete on stamp for each row execute function refuse_change();
create trigger never_emptied before truncate on stamp for each statement execute function refuse_change();

grant select on stamp to ledger;
grant select, insert on stamp to ledger_publish;
