-- An opening that gave out no key is one all the same: who asked, and why.

alter table disclosure
    drop constraint disclosure_pkey,
    alter column statement drop not null,
    alter column name drop not null,
    add check ((statement is null) = (name is null)),
    add unique nulls not distinct (id, statement, name);
