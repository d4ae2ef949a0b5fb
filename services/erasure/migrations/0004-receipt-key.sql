-- The receipts of an erasure open by the key that the order's own id is made from. It is kept, so that the link can be had
-- again; it opens what this table names, and nothing more. Orders from before have none: theirs was given out once.
alter table erasure_order add column receipt_key bytea, drop column receipt_key_hash, drop column withdrawal;
