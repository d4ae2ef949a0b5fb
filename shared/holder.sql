-- Who was ordered to be erased at this holder, for ever: so that nothing is taken in again, and a repetition is known.
create table erased (
    subject        text        primary key,
    request        uuid        not null,
    evidence_until timestamptz,                    -- nothing of what only proves goes before
    ended_at       timestamptz,                    -- when this holder stated the end of the words it had taken
    statement      uuid,                           -- the DataErased; none while something is left
    at             timestamptz not null default clock_timestamp()
);
