-- An erasure takes refused permits, too.
create index permit_by_subject on permit (subject);
drop index permit_of;
