-- Who comes to their end next: a hold lasts years, so many wait.
create index erasure_waiting on erasure (shard, hold_until) where ending_at is null;

-- Which key-encryption keys are still needed.
create index subject_key_by_kek on subject_key (shard, (substring(wrapped for 4)));
