-- Whose evidence key is still to be destroyed: the row itself stays for ever.
alter table erased add column evidence_destroyed_at timestamptz;
create index erased_holding on erased (evidence_until) where evidence_destroyed_at is null;
