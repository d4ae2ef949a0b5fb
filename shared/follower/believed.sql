-- What a follower must not forget when it ends: the last leaf it believed, which the next one holds against the
-- ledger's, and that some index had two. Both go only with what was folded.

alter table position
    add leaf         bytea,                             -- the leaf at next - 1
    add contradicted bigint check (contradicted >= 0);  -- an index for which two different leaves came
