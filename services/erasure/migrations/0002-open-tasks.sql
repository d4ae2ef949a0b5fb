-- What still waits for a holder, among however many that were erased.
create index task_open on task (request) where state <> 'recorded' or found is distinct from 0;
create index task_missing on task (holder, request) where state <> 'recorded';
