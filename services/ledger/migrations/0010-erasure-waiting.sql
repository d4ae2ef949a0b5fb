-- Who comes to their end next: a hold lasts years, so many wait.
create index erasure_waiting on erasure (shard, hold_until) where ending_at is null;
