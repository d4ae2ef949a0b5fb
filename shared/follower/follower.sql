-- How far the recorded history is folded into this schema. It moves in the transaction of what was folded,
-- so that each index is folded exactly once, whatever the messages do.

create table position (
    shard      integer     primary key check (shard >= 0),
    next       bigint      not null default 0 check (next >= 0),
    applied_at timestamptz
);
