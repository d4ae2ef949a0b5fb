"""Stage 4 as PostgreSQL is told it: one batch is one SQL statement, and this is it, with what goes into it."""

from typing import Any, Final

from services.ledger.prepare import Prepared
from shared.events import MAX_STATEMENT_BYTES

# One statement, no transaction around it: a process that is stopped between two statements holds no lock, and one that
# is stopped while sending this one has not begun it.
APPEND: Final = """
with h as (
    update head set size = $5, next_offset = $6, edge = $7, map_root = $8, recorded_at = $9
    where shard = $1 and epoch = $2 and size = $3 and next_offset = $4
      and not exists (select from incident i
                      where i.shard = $1 and i.kind = 'signer-disagrees' and i.closed_at is null)
      -- A batch of a clock that is wrong would be one that the signer refuses, or one that rejects what is right.
      and to_timestamp($9 / 1000.0) between clock_timestamp() - interval '60 s' and clock_timestamp() + interval '5 s'
    returning 1
), add_leaves as (
    insert into leaf_batch (shard, first, n, leaves, root, next_offset)
    select $1, $3, $10, $11, $52, $6 from h where $10 > 0
), add_tiles as (
    insert into tile (shard, level, n, hashes)
    select $1, t.* from h, unnest($12::smallint[], $13::bigint[], $14::bytea[]) t
), add_seen as (
    insert into seen (shard, id, source, index, sequence, statement_hash)
    select $1, e.id, e.source, $3 + e.o - 1, e.sequence, e.statement_hash
    from h, unnest($15::text[], $16::uuid[], $17::bigint[], $18::bytea[]) with ordinality
         e (source, id, sequence, statement_hash, o)
), add_payloads as (
    insert into payload (shard, index, subject, payload)
    select $1, $3 + e.o - 1, e.subject, e.payload
    from h, unnest($19::text[], $20::bytea[]) with ordinality e (subject, payload, o)
), add_subjects as (
    insert into subject_key (subject, shard, wrapped)
    select s.subject, $1, s.wrapped from h, unnest($21::text[], $22::bytea[]) s (subject, wrapped)
), add_matters as (
    insert into matter (subject, matter, shard, restricted_at)
    select m.subject, m.matter, $1, m.restricted_at
    from h, unnest($23::text[], $24::text[], $25::text[]) m (subject, matter, restricted_at)
    on conflict (subject, matter) do update set restricted_at = excluded.restricted_at
), add_overtaken as (
    insert into overtaken (shard, source, sequence, id, index)
    select $1, o.* from h, unnest($26::text[], $27::bigint[], $28::uuid[], $29::bigint[]) o
), add_rejects as (
    insert into rejected (shard, stated_offset, source, sequence, statement_id, reason,
                          statement_hash, statement_size, statement, times)
    select $1, r.* from h, unnest($30::bigint[], $31::text[], $32::bigint[], $33::text[], $34::text[],
                                  $35::bytea[], $36::int[], $37::bytea[], $38::int[]) r
    on conflict (shard, source, sequence, statement_hash, reason) do update
        set times = rejected.times + excluded.times, stated_offset = excluded.stated_offset,
            last_at = clock_timestamp()
), set_marks as (
    insert into source_mark (shard, source, sequence, all_before)
    select $1, m.* from h, unnest($39::text[], $40::bigint[], $41::timestamptz[]) m
    on conflict (shard, source) do update set sequence = excluded.sequence, all_before = excluded.all_before
), set_progress as (
    insert into progress (shard, source, size, contiguous)
    select $1, p.source, $5, p.contiguous from h, unnest($42::text[], $43::bigint[]) p (source, contiguous)
    on conflict (shard, source, size) do update set contiguous = excluded.contiguous
), fill_gaps as (
    delete from arrived a using h, unnest($42::text[], $43::bigint[]) p (source, contiguous)
    where a.shard = $1 and a.source = p.source and a.sequence <= p.contiguous
), add_arrived as (
    insert into arrived (shard, source, sequence)
    select $1, a.* from h, unnest($44::text[], $45::bigint[]) a
), open_incidents as (
    insert into incident (shard, kind, about, detail)
    select $1, i.* from h, unnest($46::text[], $47::text[], $48::text[]) i
    on conflict do nothing
), close_incidents as (
    update incident i set closed_at = clock_timestamp(), closed_by = 'ledger', closed_reason = 'it has arrived'
    from h, unnest($49::text[], $50::text[]) c (kind, about)
    where i.shard = $1 and i.kind = c.kind and i.about = c.about and i.closed_at is null
), add_erasures as (
    insert into erasure (subject, shard, hold_until, completed)
    select e.subject, $1, coalesce(e.hold_until, to_timestamp($9 / 1000.0)), e.completed
    from h, unnest($53::text[], $54::timestamptz[], $55::bigint[]) e (subject, hold_until, completed)
    on conflict (subject) do update set hold_until = greatest(erasure.hold_until, excluded.hold_until),
        completed = coalesce(erasure.completed, excluded.completed)
), end_labels as (
    update ending e set ended = o.index
    from h, unnest($56::text[], $57::text[], $58::bigint[]) o (subject, matter, index)
    where e.subject = o.subject and e.matter = o.matter
), add_repetitions as (
    insert into empty_number (shard, source, first, last, why)
    select $1, r.source, r.sequence, r.sequence, 'repetition'
    from h, unnest($59::text[], $60::bigint[]) r (source, sequence)
    on conflict do nothing
)
select pg_notify(channel, '') from h, unnest($51::text[]) channel
"""


def arguments(prepared: Prepared) -> list[Any]:
    """What APPEND takes, in its order."""
    events, rejects, marks = prepared.events, list(prepared.rejects.values()), list(prepared.marks.values())
    matters, tiles, overtaken = prepared.matters, prepared.tiles, prepared.overtaken
    erasures = prepared.erasures
    # Rejects alone count as done at once, if all before them is sealed: nobody will sign anything for them.
    channels = ["ledger_appended"] if prepared.leaves else ["ledger_sealed"]
    return [
        prepared.shard,
        prepared.epoch,
        prepared.size,
        prepared.next_offset,
        prepared.new_size,
        prepared.new_next_offset,
        prepared.edge,
        prepared.map_root,
        prepared.recorded_at,
        len(prepared.leaves),
        b"".join(prepared.leaves),
        [tile.level for tile in tiles],
        [tile.n for tile in tiles],
        [tile.hashes for tile in tiles],
        [event[0] for event in events],
        [event[1] for event in events],
        [event[2] for event in events],
        [event[3] for event in events],
        [event[4] for event in events],
        [event[5] for event in events],
        [subject for subject, _ in prepared.new_subjects],
        [wrapped for _, wrapped in prepared.new_subjects],
        [subject for subject, _ in matters],
        [matter for _, matter in matters],
        list(matters.values()),
        [one[0] for one in overtaken],
        [one[1] for one in overtaken],
        [one[2] for one in overtaken],
        [one[3] for one in overtaken],
        [reject.offset for reject, _ in rejects],
        [reject.source for reject, _ in rejects],
        [reject.sequence for reject, _ in rejects],
        [reject.statement_id for reject, _ in rejects],
        [reject.reason for reject, _ in rejects],
        [reject.statement_hash for reject, _ in rejects],
        [len(reject.raw) for reject, _ in rejects],
        # What nobody proved to have said may hold anything; its hash is enough to find it in Kafka.
        [reject.raw if reject.source and len(reject.raw) <= MAX_STATEMENT_BYTES else None for reject, _ in rejects],
        [times for _, times in rejects],
        [mark.source for mark in marks],
        [mark.sequence for mark in marks],
        [mark.all_before for mark in marks],
        list(prepared.progress),
        list(prepared.progress.values()),
        [source for source, _ in prepared.arrived],
        [sequence for _, sequence in prepared.arrived],
        [kind for kind, _, _ in prepared.opened],
        [about for _, about, _ in prepared.opened],
        [detail for _, _, detail in prepared.opened],
        [kind for kind, _ in prepared.closed],
        [about for _, about in prepared.closed],
        channels,
        prepared.root,
        list(erasures),
        [hold_until for hold_until, _ in erasures.values()],
        [completed for _, completed in erasures.values()],
        [subject for subject, _, _ in prepared.ended],
        [matter for _, matter, _ in prepared.ended],
        [index for _, _, index in prepared.ended],
        [source for source, _ in prepared.repetitions],
        [sequence for _, sequence in prepared.repetitions],
    ]
