-- Follows outbox.sql and progress.sql. What is stated over HTTP is never numbered, so what is done must leave the index
-- in which `put` and the relays look for what is not.

drop index outbox_unnumbered;
create index outbox_unnumbered on outbox (accepted_at, id) where sequence is null and sealed_at is null;
