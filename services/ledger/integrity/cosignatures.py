"""Stored cosignatures against the checkpoints that they are of, and against the policy that they were asked for by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Final

from services.ledger.integrity.finding import Finding
from services.ledger.reader.errors import Invalid
from services.ledger.reader.note import CosignatureVerifier, parse_note
from services.ledger.reader.policy import Policy, format_witnesses, parse_policy
from shared.database import Queries, Row

_POLICIES: Final = "select policy, since from witness_policy where shard = $1 order by number"
_COSIGNATURES: Final = """
select o.size, o.key, o.line, extract(epoch from o.signed_at)::float8 as time, o.quorum, c.note
from cosignature o left join checkpoint c using (shard, size)
where o.shard = $1 and o.size in (select distinct size from cosignature where shard = $1 and size > $2
                                  order by size limit $3)
order by o.size, o.key
"""
_NEWEST: Final = """
select w.key, w.size, w.line, extract(epoch from w.signed_at)::float8 as time, c.note,
       exists (select from cosignature o where o.shard = $1 and o.size = w.size and o.key = w.key) as first
from witness w left join checkpoint c on c.shard = $1 and c.size = w.size
where w.shard = $1 order by w.key
"""


@dataclass(frozen=True, slots=True)
class _Noted:
    """A policy that was in force from this size on."""

    since: int
    policy: Policy
    verifiers: Mapping[str, CosignatureVerifier]
    names: Mapping[str, str]
    """by the key that a row has"""

    @classmethod
    def of(cls, policy: Policy, since: int) -> _Noted:
        verifiers = {one.name: CosignatureVerifier(one.vkey) for one in policy.witnesses}
        keys = {name: f"{one.name}+{one.key_id.hex()}" for name, one in verifiers.items()}
        return cls(
            since,
            policy,
            {keys[name]: one for name, one in verifiers.items()},
            {key: name for name, key in keys.items()},
        )


class Cosignatures:
    """Of one log, from its first on. What is configured is believed; what it said before, the log's rows say."""

    def __init__(self, shard: int, configured: Policy | None) -> None:
        self.shard = shard
        self.size = 0
        """up to where they are checked"""
        self._configured = None if configured is None else _Noted.of(configured, 0)
        self._noted: Sequence[_Noted] = ()
        self._newest: dict[str, int] = {}

    async def check_policies(self, db: Queries) -> list[Finding]:
        """Begin: by which policies the rest is judged."""
        rows = await db.fetch(_POLICIES, self.shard)
        try:
            self._noted = [_Noted.of(parse_policy(row["policy"].encode("latin-1")), row["since"]) for row in rows]
        except (Invalid, UnicodeEncodeError):
            return [Finding("witness_policy", self.shard, "all", "one of them is none")]
        found: list[Finding] = []
        if rows and self._configured and rows[-1]["policy"] != format_witnesses(self._configured.policy):
            what = "is not the one that is configured here; if that was changed, restart ledger-seal"
            found.append(Finding("witness_policy", self.shard, f"since size {rows[-1]['since']}", what))
        if any(now.since < before.since for before, now in pairwise(self._noted)):
            found.append(Finding("witness_policy", self.shard, "all", "they are not in order"))
        return found

    async def check_behind(self, db: Queries, size: int, limit: int) -> tuple[list[Finding], bool]:
        """Those of the next sizes behind this one, so many; whether these were the last."""
        rows = await db.fetch(_COSIGNATURES, self.shard, size, limit)
        found: list[Finding] = []
        sizes = 0
        for one, group in groupby(rows, lambda row: int(row["size"])):
            sizes, self.size, of_one = sizes + 1, one, list(group)
            for row in of_one:
                self._newest[row["key"]] = one
                if what := self._wrong_line(row):
                    found.append(Finding("cosignature", self.shard, f"size {one}, {row['key']}", what))
            found += self._wrong_quorum(one, of_one)
        return found, sizes < limit

    async def check_newest(self, db: Queries) -> list[Finding]:
        """What is served on the newest checkpoint; not older than what was checked of each witness before."""
        found = []
        for row in await db.fetch(_NEWEST, self.shard):
            size = 0 if row["size"] is None else int(row["size"])
            what = ""
            if size < self._newest.get(row["key"], 0):
                what = f"stands at size {size}, and the witness has cosigned {self._newest[row['key']]}"
            elif self._noted and row["key"] not in self._noted[-1].verifiers:
                what = "is no witness of the policy"
            elif row["size"] is not None:
                what = self._wrong_line(row) or (
                    "" if row["first"] else "its first cosignature of that size is missing"
                )
            if what:
                found.append(Finding("witness", self.shard, row["key"], what))
        return found

    def _wrong_line(self, row: Row) -> str:
        if row["note"] is None:
            return "is of a checkpoint that is not there"
        try:
            text = parse_note(row["note"].encode()).text
            line = row["line"].encode()
            note = parse_note(text + b"\n" + line)
            if note.text != text or b"".join(one.line() for one in note.signatures) != line or len(note.signatures) > 1:
                return "is not one line of a note"
            [one] = note.signatures
            if f"{one.name}+{one.key_id.hex()}" != row["key"]:
                return "is of another key"
            verifier = self._verifier(row["key"])
            if verifier is not None:
                verifier.verify(note)
            elif self._noted and row["size"] > self._noted[0].since:
                return "is of a key that no policy names"
            # Else from before policies were noted, of a witness that is asked no more: its key is not known here.
        except Invalid as invalid:
            return f"{invalid.what} {invalid.why}"
        if int.from_bytes(one.signature[:8], "big") != row["time"]:
            return "does not say the time that is noted beside it"
        return ""

    def _verifier(self, key: str) -> CosignatureVerifier | None:
        believed = [self._configured] if self._configured else []
        return next((one.verifiers[key] for one in (*believed, *reversed(self._noted)) if key in one.verifiers), None)

    def _wrong_quorum(self, size: int, rows: Sequence[Row]) -> list[Finding]:
        """Whether it is enough of them was decided by the policy in force; where it changed at this size, by either."""
        ends = [one.since for one in self._noted[1:]]
        inside = [
            one
            for place, one in enumerate(self._noted)
            if one.since <= size and (place == len(ends) or size <= ends[place])
        ]
        if not inside or size <= self._noted[0].since:
            return []
        keys = {row["key"] for row in rows}
        enough = {one.policy.is_satisfied_by({one.names[key] for key in keys & one.names.keys()}) for one in inside}
        said = any(row["quorum"] for row in rows)
        if said in enough:
            return []
        what = "are said to be enough, and are not" if said else "are enough, and it is not said"
        return [Finding("cosignature", self.shard, f"size {size}", f"{what}, under the policy of then")]
