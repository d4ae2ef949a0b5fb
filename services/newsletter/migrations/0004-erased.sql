-- include: shared/holder.sql

-- Sign-ups that nobody confirmed are gone here; that the address goes from everywhere is still to be ordered.
create table unclaimed (
    subject text        primary key,
    since   timestamptz not null
);

grant select, insert, update on erased to newsletter;
grant select, insert, delete on unclaimed to newsletter;
