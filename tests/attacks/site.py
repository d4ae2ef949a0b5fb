"""The attacked installation: a log of people one knows by name, what they and others keep of it, and a forger's tools.

The forger owns everything the operator owns: their own database, their own appender, their own signer with whatever
keys they have stolen. What they make is consistent in itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.append import Appender
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.integrity.running import RunningCheck
from services.ledger.procedures.create import create_log
from services.ledger.procedures.log_check import check_log
from services.ledger.proofs import receipt as receipts
from services.ledger.proofs.history import Histories
from services.ledger.proofs.receipt import Snapshot
from services.ledger.proofs.sealed_map import SealedMaps
from services.ledger.reader.authority import Authority
from services.ledger.reader.note import CosignatureSigner, Signer
from services.ledger.reader.policy import Policy
from shared.clock import Clock, utc_now
from shared.database import Signal
from shared.errors import Corrupt
from shared.events import parse
from shared.kafka import Message, Outgoing
from shared.secrets import Secrets, create_secrets
from tests.attacks.declared import After, Check, Notices
from tests.integration.ledger.world import REGISTER, World, given, new_subject, settings_of, withdrawn
from tests.parts import Database, KafkaPart, Unmovable

ANNA, BEN, CARLA = new_subject(), new_subject(), new_subject()
"""Anna consents and withdraws; Ben consents, and then withdraws everything; Carla consents twice."""
CROWD = [new_subject() for _ in range(20)]


NO_KAFKA = KafkaPart("none", "127.0.0.1:9", Unmovable())
"""What is appended here comes past Kafka, by forgers as by us: no test of a database's rows waits for a broker."""
BACKED_UP = 0
"""The batch after which the backup is from."""


Batches = Sequence[Sequence[bytes]]


class Handed:
    """A consumer that hands out what it was given: a forger's way past Kafka."""

    def __init__(self, messages: Iterable[Outgoing], start: int) -> None:
        self._messages = [
            Message(one.partition, start + place, one.key, one.value, dict(one.headers))
            for place, one in enumerate(messages)
        ]

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    def seek(self, _partition: int, offset: int) -> None:
        self._messages = [one for one in self._messages if one.offset >= offset]

    async def beginning_offsets(self) -> dict[int, int]:
        return {0: 0}

    async def fetch(self, max_records: int = 1000, _: int = 0) -> list[Message]:
        taken, self._messages = self._messages[:max_records], self._messages[max_records:]
        return taken


@dataclass
class Site:
    """A copy of the installation, or one that a forger made."""

    world: World
    database: Database
    folder: Path
    said: dict[str, bytes]
    batches: Batches = ()
    kept: dict[str, bytes] = field(default_factory=dict)
    """receipts and checkpoints, as they were handed out, by what they are of"""
    spare: Sequence[Database] = ()
    """databases that a forger may fill"""
    _worlds: list[World] = field(default_factory=list)
    """all that were made of this one, to be closed with it"""

    async def again(self, folder: Path) -> Self:
        """As it was before anything was attacked, with its files in another folder."""
        await restore(self.database, "untouched")
        return self._beside(folder, self.database, _worlds=[])

    def _beside(self, folder: Path, database: Database, **changes: Any) -> Self:
        """The same name, people and statements, with another database or other files."""
        settings = self.world.settings.model_copy(
            update={
                "database": database.dsn("ROLE").replace("ROLE", "{role}"),
                "superuser_dsn": database.dsn(),
                "secrets_dir": folder / "secrets",
                "signer_dir": folder / "signer",
            }
        )
        world = World(settings, Secrets(settings.secrets_dir))
        world.sequences = dict(self.world.sequences)
        made = replace(self, world=world, database=database, folder=folder, **changes)
        made._worlds.append(world)
        return made

    async def close(self) -> None:
        for world in {id(one): one for one in (self.world, *self._worlds)}.values():
            await world.close()

    # -- who looks -------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        return self.world.settings.origin(0)

    @property
    def vkey(self) -> str:
        """The log's verifier key as people have it: the one that was there before anything was attacked."""
        return self.kept["vkey"].decode()

    def _trusted(self, *, with_files: bool = True, **given: Any) -> Trusted:
        return Trusted(
            self.world.secrets.keks(),
            {0: self.vkey},
            {0: self.kept["fresh vkey"].decode()},
            signer_dir=self.world.settings.signer_dir if with_files else None,
            **given,
        )

    async def checked(
        self, *, with_files: bool = True, authority: Authority | None = None, witnesses: Policy | None = None
    ) -> list[Finding]:
        """What `log check` names, with the keys that were there before anything was attacked."""
        trusted = self._trusted(with_files=with_files, authority=authority, witnesses=witnesses)
        db = await self.world.database("ledger")
        return [one async for one in check_log(db, trusted) if isinstance(one, Finding)]

    async def check(self, notices: Notices, **given: Any) -> None:
        """Let `log check` look, and note the first row it names."""
        began = perf_counter()
        found = await self.checked(**given)
        seconds = perf_counter() - began
        assert found, "log check has noticed nothing"
        said = [str(one) for one in found]
        words = notices.attack.noticed[Check.LOG_CHECK]
        notices.by(Check.LOG_CHECK, next((one for one in said if words in one), said[0]), seconds)

    async def behind(self) -> RunningCheck:
        """The check that runs behind the signer, with nothing left to do."""
        check = RunningCheck(0, await self.world.database("ledger_check"), self._trusted(), Signal(), utc_now, rests=0)
        while not await check.follow():
            pass
        return check

    async def comes_to_it(self, check: RunningCheck) -> After:
        """When it has noticed, of its own accord."""
        # What the walk finds missing, the next step judges.
        for look, after in (
            (check.follow, After.SECONDS),
            (check.sweep, After.SWEEP),
            (check.follow, After.SWEEP),
        ):
            try:
                await look()
            except Corrupt:
                return after
            if await self.world.value("select exists (select from incident where kind = 'wrong-row')"):
                return after
        return After.RUN

    async def sign(self, notices: Notices) -> None:
        """Start the signer anew and let it sign what is there; it must refuse."""
        sealer = await self.world.sealer()
        with notices.raising(Check.SIGNER, Exception):
            await self.world.seal(sealer)

    async def look(self, notices: Notices) -> None:
        """Let everybody look who was declared to notice what is done to the database."""
        if Check.SIGNER in notices.attack.noticed:
            await self.sign(notices)
        if Check.LOG_CHECK in notices.attack.noticed:
            await self.check(notices)

    async def receipt(self, name: str) -> bytes:
        """The receipt of one statement, as the ledger gives it now."""
        db = await self.world.database("ledger")
        histories = Histories(db, self.world.secrets.keks(), SealedMaps(db, Signal()))
        history = await histories.of_statement(parse(self.said[name]).id)
        return receipts.to_bytes(receipts.receipt(history, Snapshot(REGISTER.snapshot())))

    async def checkpoint(self) -> bytes:
        """The newest checkpoint as the ledger serves it now."""
        note = await self.world.value(
            "select c.note || f.line from checkpoint c join fresh f using (shard, size) order by size desc limit 1"
        )
        return str(note).encode()

    # -- what a forger does ----------------------------------------------------------------------------------------

    async def appending(self, *statements: bytes, clock: Clock = utc_now, **options: Any) -> Appender:
        """An appender that has been handed these, each said by whom it names, and has done nothing yet."""
        start = await self.world.next_offset()
        messages = [self.world.message(raw, source=parse(raw).source) for raw in statements]
        self.world.offsets[0] = start + len(messages)
        return await self.world.appender(consumer=lambda: Handed(messages, start), clock=clock, **options)

    async def append(self, *statements: bytes, clock: Clock = utc_now, **options: Any) -> None:
        """Append these in one batch, and sign them."""
        appender = await self.appending(*statements, clock=clock, **options)
        await self.world.append(appender)
        await appender.drop()
        await self.world.seal(await self.world.sealer())

    async def forged(self, batches: Batches, *, log_key: bool, same_keys: bool = True, clock: Clock = utc_now) -> Site:
        """Another log under the same name, of these statements, by the real programs; a consistent one.

        With the log's key it is signed as ours is; without, by a key the forger made. People's keys are the same,
        unless the forger would rather have others.
        """
        database, self.spare = self.spare[0], self.spare[1:]
        await restore(database, "empty")
        folder = self.folder / database.name
        shutil.copytree(self.world.settings.secrets_dir, folder / "secrets")
        if not log_key:
            for file in ("log-0", "fresh-0"):
                (folder / "secrets" / file).chmod(0o600)
                (folder / "secrets" / file).write_text(Ed25519PrivateKey.generate().private_bytes_raw().hex())
        forged = self._beside(folder, database, batches=batches)
        forged.world.sequences = {}
        await create_log(forged.world.settings, 0)
        if same_keys:
            rows = await self.world.rows("select subject, shard, wrapped from subject_key")
            await forged.world.rows(
                "insert into subject_key select * from unnest($1::text[], $2::int[], $3::bytea[])",
                *([row[column] for row in rows] for column in range(3)),
            )
        for batch in batches:
            await forged.append(*batch, clock=clock)
        return forged

    def with_files(self, folder: Path) -> Site:
        """The same database, with other files."""
        return self._beside(folder, self.database)

    def with_kafka(self, bootstrap: str, prefix: str) -> Site:
        """The same, with a Kafka."""
        settings = self.world.settings.model_copy(update={"kafka": bootstrap, "topic_prefix": prefix})
        world = World(settings, self.world.secrets)
        world.sequences = dict(self.world.sequences)
        self._worlds.append(world)
        return replace(self, world=world)

    def in_place_of(self, true: Site) -> Site:
        """This database under the true signer, with the true keys and files: what its next start finds."""
        return self._beside(true.folder, self.database)


async def keep(database: Database, name: str) -> None:
    """Remember the ledger's rows as they are now, to be restored."""
    await _with_every_right(
        database,
        f"""do $$ declare one text; begin
            create schema {name};
            for one in select tablename from pg_tables where schemaname = 'ledger' loop
                execute format('create table {name}.%I as table ledger.%I', one, one);
            end loop;
        end $$""",
    )


async def restore(database: Database, name: str) -> None:
    """The ledger's rows as they were."""
    await _with_every_right(
        database,
        f"""do $$ declare one text; begin
            for one in select tablename from pg_tables where schemaname = 'ledger' loop
                execute format('delete from ledger.%I', one);
                execute format('insert into ledger.%I overriding system value table {name}.%I', one, one);
            end loop;
        end $$""",
    )


async def _with_every_right(database: Database, sql: str) -> None:
    connection = await asyncpg.connect(database.dsn(), server_settings={"session_replication_role": "replica"})
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def build(database: Database, folder: Path, spare: Sequence[Database]) -> Site:
    """Fill a log by the real programs; keep what people and an outsider keep, and a backup from early on."""
    said = {
        "Anna consents": given(ANNA),
        "Ben consents": given(BEN),
        "Carla consents": given(CARLA),
        "Anna withdraws": withdrawn(ANNA),
        "Ben withdraws everything": withdrawn(BEN, purpose=None),
        "Carla consents again": given(CARLA),
    }
    # Enough for one full tile, in which some withdraw.
    crowd = [(withdrawn if place % 7 == 6 else given)(CROWD[place % len(CROWD)]) for place in range(300)]
    batches = [
        [said["Anna consents"], said["Ben consents"], said["Carla consents"]],
        [said["Anna withdraws"]],
        crowd,
        [said["Ben withdraws everything"], said["Carla consents again"]],
    ]
    settings = settings_of(database, NO_KAFKA, f"{database.name}.", folder)
    create_secrets(
        settings.secrets_dir, os.urandom, ["newsletter", "marketing", "erasure"], ["operator", "newsletter"], 1
    )
    await create_log(settings, 0)
    site = Site(World(settings, Secrets(settings.secrets_dir)), database, folder, said, batches, spare=spare)
    keys = site.world.secrets
    site.kept["vkey"] = Signer(site.origin, keys.log_key(0)).vkey.encode()
    site.kept["fresh vkey"] = CosignatureSigner(f"{site.origin}/fresh", keys.fresh_key(0)).vkey.encode()
    for number, batch in enumerate(batches):
        await site.append(*batch)
        # Whoever asks for a receipt at once gets one under the checkpoint of that moment.
        for of in ("Anna consents", "Ben consents", "Anna withdraws"):
            if said[of] in batch:
                site.kept[of] = await site.receipt(of)
        site.kept[f"checkpoint {number}"] = await site.checkpoint()
        if number == BACKED_UP:
            await keep(database, "backup")
            shutil.copytree(folder / "signer", folder / "backup" / "signer")
    await keep(database, "untouched")
    await site.close()
    for one in spare:
        await keep(one, "empty")
    return site
