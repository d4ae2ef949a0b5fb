-- include: shared/holder.sql

grant select, insert, update on erased to marketing;
