-- What nobody has dealt with is asked for every few seconds; what somebody has is kept, and only grows.
create index rejected_open on rejected (number) where handled_at is null;
