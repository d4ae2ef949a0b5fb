-- The receipt of an erasure is that of the withdrawal of everything that it began with. Its key is handed out once, to
-- whoever ordered, and not kept.
alter table erasure_order add column receipt_key_hash text, add column withdrawal uuid;
