"""What a superuser of PostgreSQL does to single rows: no key is stolen, nothing else is touched."""

from __future__ import annotations

from tests.attacks import auditing
from tests.attacks.declared import LATE, Attack, Check, Needs, Notices, looks, tries
from tests.attacks.site import ANNA, BEN, Site

DATABASE = (Needs.DATABASE,)


@tries(
    Attack(
        "alter",
        "one bit of an old leaf's commitment",
        DATABASE,
        {
            Check.SIGNER: "index 2 is not the leaf that was signed",
            Check.LOG_CHECK: "index 2: is not the leaf that the signer has signed",
            Check.AUDIT: "WRONG",
        },
        blind=LATE,
        sql="update leaf_batch set leaves = set_byte(leaves, 89 + 60, get_byte(leaves, 89 + 60) # 1) where first = 1",
    ),
    Attack(
        "alter",
        "one bit of a stored statement",
        DATABASE,
        {Check.LOG_CHECK: "payload, shard 0, index 5: the ciphertext does not open"},
        blind="the signer, which never sees statements",
        sql="update payload set payload = set_byte(payload, 40, get_byte(payload, 40) # 1) where index = 5",
    ),
    Attack(
        "alter",
        "one hash in a full tile",
        DATABASE,
        {
            Check.LOG_CHECK: "tile, shard 0, level 0, number 0: does not hold the hashes of its leaves",
            Check.AUDIT: "WRONG",
        },
        blind="the signer, which computes hashes from leaves alone",
        sql="update tile set hashes = set_byte(hashes, 5 * 32, get_byte(hashes, 5 * 32) # 1)",
    ),
    Attack(
        "alter",
        "a number that has not arrived, among those that came early",
        DATABASE,
        {Check.LOG_CHECK: "arrived, shard 0, source newsletter: number 309 counts as arrived, and nothing stands"},
        sql="insert into arrived values (0, 'newsletter', 309)",
    ),
    Attack(
        "alter",
        "how fresh a source was heard, by a year ahead",
        DATABASE,
        {Check.LOG_CHECK: "source_mark, shard 0, source newsletter: lies in the future"},
        blind="nobody notices a mark that is set to now: it then says what the next true one would say",
        sql="insert into source_mark values (0, 'newsletter', 306, now() + interval '1 year')",
    ),
    Attack(
        "delete",
        "one batch of leaves, with its statement",
        DATABASE,
        {
            Check.SIGNER: "leaf_batch at shard 0, no batch begins at 5",
            Check.LOG_CHECK: "leaf_batch, shard 0, first 7: leaf 5 is missing",
        },
        blind=LATE,
        sql="""delete from leaf_batch where first = 5; delete from payload where index = 5;
               delete from seen where index = 5""",
    ),
    Attack(
        "delete",
        "one stored statement, as if it had been erased",
        DATABASE,
        {Check.LOG_CHECK: "payload, shard 0, index 5: is missing, and its label was not erased"},
        sql="delete from payload where index = 5",
    ),
    Attack(
        "insert",
        "a leaf behind the last of an old batch",
        DATABASE,
        {
            Check.SIGNER: "index 7 is not the leaf that was signed",
            Check.LOG_CHECK: "index 7: is not the leaf that the signer has signed",
        },
        blind=LATE,
        sql="update leaf_batch set n = 3, leaves = leaves || substring(leaves for 89) where first = 5",
    ),
    Attack(
        "reorder",
        "two leaves of one batch",
        DATABASE,
        {
            Check.SIGNER: "index 1 is not the leaf that was signed",
            Check.LOG_CHECK: "index 1: is not the leaf that the signer has signed",
            Check.AUDIT: "WRONG",
        },
        blind=LATE,
        sql="""update leaf_batch set leaves = substring(leaves from 90 for 89) || substring(leaves for 89)
                   || substring(leaves from 179) where first = 1""",
    ),
    Attack(
        "truncate",
        "the last batch, with all that tells of it, and its checkpoint",
        DATABASE,
        {
            Check.SIGNER: "PostgreSQL is behind the signer's files at shard 0: 308 leaves, 311 were signed",
            Check.LOG_CHECK: "leaf_batch, shard 0, from index 308: leaves that were signed are missing",
        },
        sql="""delete from leaf_batch where first = 308; delete from payload where index >= 308;
               delete from seen where index >= 308; delete from matter where matter = 'everything:all';
               delete from fresh; delete from checkpoint where size = 311;
               insert into fresh select 0, 308, '', now();
               update head set size = 308, next_offset = 304""",
    ),
    Attack(
        "back-date",
        "`recorded_at` of an old leaf, by a year",
        DATABASE,
        {
            Check.SIGNER: "index 3 is not the leaf that was signed",
            Check.LOG_CHECK: "index 3: is not the leaf that the signer has signed",
            Check.AUDIT: "WRONG",
        },
        blind=LATE,
        sql="""update leaf_batch set leaves = set_byte(leaves, 2 * 89 + 83, get_byte(leaves, 2 * 89 + 83) - 7)
               where first = 1""",
    ),
    Attack(
        "swap payloads or wrapped keys",
        "two people's stored statements",
        DATABASE,
        {Check.LOG_CHECK: "payload, shard 0, index 1: the ciphertext does not open"},
        sql="""update payload a set payload = b.payload from payload b
               where (a.index, b.index) in ((1, 2), (2, 1))""",
    ),
    Attack(
        "swap payloads or wrapped keys",
        "two people's statements together with whose they are",
        DATABASE,
        {Check.LOG_CHECK: "payload, shard 0, index 1: the ciphertext does not open: wrong key, wrong place"},
        sql="""update payload a set payload = b.payload, subject = b.subject from payload b
               where (a.index, b.index) in ((1, 2), (2, 1))""",
    ),
    Attack(
        "swap payloads or wrapped keys",
        "two people's wrapped keys",
        DATABASE,
        {Check.LOG_CHECK: "subject_key, shard 0, of the payload at index 1: the ciphertext does not open"},
        sql=f"""update subject_key a set wrapped = b.wrapped from subject_key b
                where (a.subject, b.subject) in (('{ANNA}', '{BEN}'), ('{BEN}', '{ANNA}'))""",
    ),
    Attack(
        "fork",
        "a second checkpoint for a size that was signed",
        DATABASE,
        {Check.SIGNER: "size 311 is none that we signed", Check.LOG_CHECK: "checkpoint, shard 0, size 311"},
        sql="update checkpoint set root = sha256('x') where size = 311",
    ),
    Attack(
        "replay an old state map",
        "the appender's state set back to that of an old checkpoint",
        DATABASE,
        {Check.LOG_CHECK: "head, shard 0, map_root: is not that of the leaves"},
        sql="update head set map_root = (select substring(leaves from 99 for 32) from leaf_batch where first = 5)",
    ),
    Attack(
        "drop a withdrawal",
        "one that never left the newsletter: counted as arrived, so that its outbox lets it go",
        (Needs.DATABASE, Needs.KAFKA),
        {Check.LOG_CHECK: "progress, shard 0, source newsletter: number 307 counts as arrived, and nothing stands"},
        blind="the newsletter, which believes that it is sealed; the person's signed acceptance shows it, too",
        sql="update progress set contiguous = contiguous + 1",
    ),
    Attack(
        "drop a withdrawal",
        "one that never left the newsletter, given up in the ledger's name",
        (Needs.DATABASE, Needs.KAFKA),
        {Check.LOG_CHECK: "progress, shard 0, source newsletter: number 307 counts as arrived, and nothing stands"},
        blind="anybody, if that somebody has closed a gap is written into the list of incidents, too",
        sql="""insert into empty_number values (0, 'newsletter', 307, 307, 'given-up');
               update progress set contiguous = contiguous + 1""",
    ),
    Attack(
        "drop a withdrawal",
        "that Ben ever withdrew, from what decides about later words of his",
        DATABASE,
        {Check.LOG_CHECK: "restricted_at is not so"},
        sql=f"update matter set restricted_at = null where subject = '{BEN}' and matter = 'everything:all'",
    ),
)
async def test_a_row_that_was_changed_is_named(site: Site, attack: Attack, notices: Notices) -> None:
    behind = await site.behind()
    await site.world.as_superuser(attack.sql)
    await site.look(notices)
    said = [one.said for one in notices.seen if one.by is Check.LOG_CHECK]
    assert [looks(one) for one in said] == [await site.comes_to_it(behind)]
    await auditing.look(site, notices)
