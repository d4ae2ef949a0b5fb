"""Rows such as years of use leave behind, so many of each table that grows, made by PostgreSQL itself.

They are shaped like real ones where a query looks (keys, states, times) and hold noise elsewhere. No service reads them
as facts: they stand beside what is measured.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import Any, Final

import asyncpg

# A UUID in version 7 layout, as subject ids are.
_SUBJECT: Final = "'0.' || overlay(overlay(md5('subject' || i) placing '7' from 13) placing '8' from 17)::uuid"


def subject(number: int) -> str:
    """The id that row `number` has."""
    digest = hashlib.md5(f"subject{number}".encode(), usedforsecurity=False).hexdigest()
    return f"0.{uuid.UUID(f'{digest[:12]}7{digest[13:16]}8{digest[17:]}')}"


# Oldest first, a second apart. One request in fifty is still open, one expired, the others were confirmed.
_ROWS: Final = {
    "newsletter.request": """
        select md5('request' || i)::uuid, md5('form' || i), {subject}, 'de', repeat('0', 64),
               'h.' || repeat('t', 1200) || '.s', true, sha256(('token' || i)::bytea),
               case i % 50 when 0 then 'open' when 1 then 'expired' else 'confirmed' end,
               now() - ({last} - i) * interval '1 s', now() + interval '1 h' + i * interval '1 ms',
               now() + interval '14 d' + i * interval '1 ms', case i % 50 when 0 then null else now() end
    """,
    "newsletter.request_purpose": """
        select md5('request' || i)::uuid, 1, 'newsletter', 'email', md5('asked' || i)::uuid,
               case when i % 50 > 1 then md5('given' || i)::uuid end
    """,
    "newsletter.mail": """
        select md5('mail' || i)::uuid, case i % 2 when 0 then 'confirmation' else 'welcome' end,
               md5('request' || i / 2 * 2)::uuid, 'accepted', false, null, null, null, null, null,
               '{"kind": "confirmation"}', null, 1, now(), now(), now() - ({last} - i) * interval '1 s', now()
    """,
    "newsletter.withdrawal": """
        select sha256(('out' || i)::bytea), 'purpose', {subject}, array[md5('withdrawn' || i)::uuid], now()
    """,
    "{outbox}.outbox": """
        select md5('asked' || i)::uuid, 0, i, repeat('s', 1200)::bytea, now() - ({last} - i) * interval '1 s',
               now() - ({last} - i) * interval '1 s', 'recorded', i, null
    """,
    "{holder}.erased": """
        select {subject}, md5('order' || i)::uuid, now(), now(), md5('erased' || i)::uuid,
               now() - ({last} - i) * interval '1 s'
    """,
    "subjects.erased": """
        select {subject}, md5('order' || i)::uuid, now(), null, md5('erased' || i)::uuid,
               now() - ({last} - i) * interval '1 s', now()
    """,
    "erasure.erasure_order": """
        select md5('order' || i)::uuid, {subject}, md5('ordered' || i)::uuid, now(), null,
               now() - ({last} - i) * interval '1 s', md5('completed' || i)::uuid, now()
    """,
    "erasure.task": "select md5('order' || i)::uuid, 'newsletter', 'recorded', md5('erased' || i)::uuid, 0, now()",
    "subjects.subject": "select {subject}, 'controller'",
    "subjects.subject_key": """
        select {subject}, use, 1, decode(repeat(md5('k' || i), 4), 'hex')
        from {numbers} cross join unnest(array['content', 'evidence']) use
    """,
    "subjects.identifier": "select 1, sha256(('address' || i)::bytea), {subject}",
    "subjects.contact_point": "select {subject}, decode(repeat(md5('c' || i), 6), 'hex')",
    "subjects.compartment": """
        select md5('asked' || i)::uuid, 'evidence', {subject}, substr(sha256(('n' || i)::bytea), 1, 12),
               sha256(('p' || i)::bytea)
    """,
    "subjects.suppression": """
        select 1, sha256(('out' || i)::bytea), 'newsletter', 'email', true, i, current_date
    """,
    "subjects.word": """
        select {subject}, 'purpose:newsletter/email', 'ConsentGiven', md5('given' || i)::uuid, i, null
    """,
    "subjects.disclosure": """
        select md5('disclosure' || i)::uuid, now(), 'compliance', 'evidence', 'a request', {subject},
               md5('asked' || i)::uuid, 'evidence'
    """,
    "marketing.standing": "select {subject}, i",
    "marketing.word": """
        select {subject}, 'purpose:newsletter/email',
               case i % 10 when 0 then 'ConsentWithdrawn' else 'ConsentGiven' end, md5('given' || i)::uuid, i, null,
               'A', 'de'
    """,
    "marketing.followed": "select md5('asked' || i)::uuid, 'ConsentRequested'",
    "marketing.permit": """
        select md5('permit' || i)::uuid, {subject}, 'purpose:newsletter/email', 'message' || i, 1, 'granted',
               'consent-in-force', md5('given' || i)::uuid, 0, i, '2026-01-01T00:00:00.000Z',
               now() - ({last} - i) * interval '1 s', now(), now(), null
    """,
    "marketing.effect": "select md5('withdrawn' || i)::uuid, 0, i, now(), '{}'",
    "marketing.campaign": "select 'issue-' || i, 'newsletter', 'email', '{}', now()",
    "marketing.delivery": """
        select md5('delivery' || i)::uuid, 'issue-' || i % 100, {subject}, 'de', 'sent', 1, now(),
               md5('permit' || i)::uuid, md5('used' || i)::uuid, '{}', null
    """,
    "ledger.seen": """
        select 0, md5('asked' || i)::uuid, 'newsletter', i, i, sha256(('s' || i)::bytea)
    """,
    "ledger.payload": "select 0, i, {subject}, repeat('p', 1200)::bytea",
    "ledger.subject_key": "select {subject}, 0, decode(repeat(md5('k' || i), 4), 'hex')",
    "ledger.matter": """
        select {subject}, 'purpose:newsletter/email', 0,
               case i % 10 when 0 then '2026-01-01T00:00:00.000Z' end
    """,
    "ledger.overtaken": "select 0, 'newsletter', i, md5('asked' || i)::uuid, i",
    "ledger.rejected": """
        select i, 0, i, 'newsletter', i, null, 'mac', sha256(('s' || i)::bytea), 1000, null, 1, now(), now(), now(),
               'somebody', 'looked at'
    """,
    "ledger.incident": """
        select i, 0, 'gap', 'newsletter/' || i, '', now(), now(), 'somebody', 'looked at'
    """,
    "ledger.leaf_batch": "select 0, i * 10, 10, repeat('l', 890)::bytea, sha256(('r' || i)::bytea)",
    "ledger.tile": "select 0, 0, i, decode(repeat(md5('t' || i), 512), 'hex')",
    "ledger.checkpoint": """
        select 0, i * 10, nullif((i - 1) * 10, 0), sha256(('r' || i)::bytea), 'note', now()
    """,
    "ledger.cosignature": "select 0, i * 10, 'witness.example.org+00000000', 'line', now(), i % 2 = 0",
    "ledger.stamp": "select 0, i * 10, repeat('t', 3000)::bytea, now()",
    "ledger.erasure": "select {subject}, 0, now(), i, now(), case when i % 50 > 0 then now() end",
    "ledger.attachment": "select sha256(('a' || i)::bytea), repeat('a', 200)::bytea, now()",
}
"""Table and what to insert; `i` counts, `{last}` is the highest."""

_EACH: Final = {
    "{outbox}": ("newsletter", "marketing", "subjects", "erasure"),
    "{holder}": ("newsletter", "marketing"),
}
TABLES: Final = {
    table.format(outbox=service, holder=service): rows
    for table, rows in _ROWS.items()
    for service in _EACH.get(table.partition(".")[0], ("",))
}


async def fill(superuser: asyncpg.Connection[Any], tables: list[str], first: int, last: int) -> None:
    """Rows number `first` to `last` of each of these tables. References and triggers are not asked."""
    await superuser.execute("set session_replication_role = replica")
    for table in tables:
        rows = TABLES[table].replace("{subject}", _SUBJECT).replace("{last}", str(last))
        numbers = f"generate_series({first}::bigint, {last}::bigint) i"
        inserted = rows.replace("{numbers}", numbers) if "{numbers}" in rows else f"{rows} from {numbers}"
        overriding = "overriding system value " if table in {"ledger.rejected", "ledger.incident"} else ""
        await superuser.execute(f"insert into {table} {overriding}{inserted} on conflict do nothing")
        await superuser.execute(f"analyze {table}")
    await superuser.execute("set session_replication_role = default")
