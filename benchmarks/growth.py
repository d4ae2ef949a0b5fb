"""What services do beside a thousand rows of each table that they touch, and beside a million, in one run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final

import asyncpg

from benchmarks import grown, running
from benchmarks.report import Result
from infra.local.installation import Installation
from services.ledger import store as ledger_store
from services.marketing import domain as marketing
from services.marketing import handlers as marketing_handlers
from services.marketing import store as marketing_store
from services.newsletter import domain, handlers, store
from services.subjects import handlers as subjects_handlers
from services.subjects.keys import KeyEncryption, Peppers
from shared import register
from shared.clock import rfc3339, utc_now
from shared.contact_points import parse_email
from shared.database import Database
from shared.events.types import Sealed
from shared.identifiers import subject_id, uuid7
from shared.limits import Numbers
from shared.register import Grade
from shared.sealing import Compartment, base64url
from shared.software import software

FEW: Final = 1_000
SECONDS: Final = 0.5
TURNS: Final = 17
CLIENTS: Final = 8
AT_LEAST: Final = 0.9
FILLED: Final = (
    *(f"newsletter.{table}" for table in ("request", "request_purpose", "mail", "withdrawal", "outbox")),
    *(f"subjects.{table}" for table in ("subject", "subject_key", "identifier", "contact_point", "compartment")),
    *(f"marketing.{table}" for table in ("standing", "word", "permit")),
    "ledger.seen",
)
"""All that these operations read and write. Appending to the log itself is what `throughput` measures."""

Operation = Callable[[int], Awaitable[object]]


class Operations:
    """What is measured, each through the service's own code; `number` picks one of the `rows` rows that there are."""

    def __init__(self, made: Installation, databases: dict[str, Database], rows: int) -> None:
        secrets = made.secrets
        self._databases = databases
        self._speaker = domain.Speaker.of(register.load(), software())
        self._cap = Numbers.read().confirmation_mails
        self._notice = self._speaker.activity.notice("de").hash
        self._sealed = Sealed(ciphertext=base64url(os.urandom(160)), key_hash=os.urandom(32).hex())
        self._subjects = subjects_handlers.Parts(
            databases["subjects"],
            KeyEncryption(lambda: secrets.keks("subjects"), os.urandom),
            Peppers(secrets.peppers()),
            shards=1,
            clock=utc_now,
            random=os.urandom,
        )
        self.rows = rows

    def all(self) -> dict[str, Operation]:
        return {
            "newsletter: a sign-up is stored": self.sign_up,
            "newsletter: a withdrawal is stored": self.withdraw,
            "newsletter: a confirmation link is looked up": self.look_up,
            "subjects: an address nobody knew is sealed": self.seal_new,
            "marketing: a permit is granted": self.permit,
            "ledger: a batch of 100 statements is checked for repetitions": self.check,
        }

    async def start(self) -> None:
        await subjects_handlers.start(self._subjects.db, self._subjects.peppers)

    def _number(self, number: int) -> int:
        """Any of the rows, not one beside the last."""
        return number * 7_919 % self.rows + 1

    def _sign_up(self, subject: str) -> domain.SignUp:
        now = utc_now()
        asked = domain.Asked("newsletter", "email", uuid7(now, os.urandom))
        periods = domain.Periods(self._speaker.activity)
        purposes = [self._speaker.activity.purpose(asked.purpose, asked.channel)]
        return domain.SignUp(
            request=domain.Request(
                id=uuid7(now, os.urandom),
                subject=subject,
                language="de",
                notice=self._notice,
                served=None,
                state="open",
                requested_at=now,
                expires_at=periods.expires_at(purposes, now),
                decided_at=None,
                confirmation=uuid7(now, os.urandom),
                asked=(asked,),
            ),
            form_key=os.urandom(32).hex(),
            token_hash=os.urandom(32),
            purge_at=periods.purge_at(purposes, now),
            refused=(),
        )

    async def sign_up(self, _number: int) -> None:
        new = self._sign_up(subject_id(0, utc_now(), os.urandom))
        [asked] = new.request.asked
        brief = Compartment(new.request.confirmation, "brief", os.urandom(90), os.urandom(32).hex())
        evidence = {asked.statement: self._sealed}
        await handlers.sign_up(self._databases["newsletter"], self._speaker, new, evidence, brief, self._cap)

    async def withdraw(self, _number: int) -> None:
        now = utc_now()
        withdrawal = domain.Withdrawal(
            act=uuid7(now, os.urandom),
            subject=subject_id(0, now, os.urandom),
            scope="purpose",
            purposes=(("newsletter", "email"),),
            message=uuid7(now, os.urandom),
            method="link",
            receipt_key_hash=os.urandom(32).hex(),
            statements=(uuid7(now, os.urandom),),
        )
        await handlers.withdraw(self._databases["newsletter"], self._speaker, withdrawal, os.urandom(32), now)

    async def look_up(self, number: int) -> None:
        token = hashlib.sha256(f"token{self._number(number) // 2 * 2}".encode()).digest()
        await store.request_by_token(self._databases["newsletter"], token)

    async def seal_new(self, _number: int) -> None:
        whom = parse_email(f"{os.urandom(8).hex()}@example.org")
        item = subjects_handlers.Plaintext(uuid7(utc_now(), os.urandom), "evidence", b'{"a":"b"}')
        await subjects_handlers.seal(self._subjects, self._speaker.controller, whom, [item])

    async def permit(self, number: int) -> None:
        now = utc_now()
        subject = grown.subject((self._number(number) - 1) | 1)  # every tenth has withdrawn, none that is odd
        ask = marketing_store.Ask(subject, "newsletter", "email", f"<{os.urandom(8).hex()}@example.org>", 1)
        horizon = marketing.Horizon(0, {"newsletter": rfc3339(now)})
        rule = marketing.Rule(frozenset({"newsletter"}), Grade("B"))
        [permit] = await marketing_handlers.ask_permits(
            self._databases["marketing"], [ask], lambda _: horizon, lambda *_: rule, now, os.urandom
        )
        if getattr(permit, "decision", None) != "granted":
            raise RuntimeError("a permit was not granted")

    async def check(self, number: int) -> None:
        ids = [str(uuid.UUID(bytes=os.urandom(16))) for _ in range(50)]
        known = [
            str(
                uuid.UUID(hashlib.md5(f"asked{self._number(number + one)}".encode(), usedforsecurity=False).hexdigest())
            )
            for one in range(50)
        ]
        await ledger_store.seen(self._databases["ledger"], 0, ["newsletter"] * 100, [*ids, *known])


async def count(operation: Operation, first: int, seconds: float) -> tuple[int, float]:
    """How often it was done by CLIENTS at once, and in how many seconds."""
    done, began = 0, time.perf_counter()

    async def client(number: int) -> None:
        nonlocal done
        while time.perf_counter() < began + seconds:
            await operation(number)
            number += CLIENTS
            done += 1

    await asyncio.gather(*(client(first + number) for number in range(CLIENTS)))
    return done, time.perf_counter() - began


async def compare(few: Operation, many: Operation) -> tuple[float, float]:
    """Rates of both, in short turns: what else the machine does meanwhile falls on both alike."""
    done, spent = [0, 0], [0.0, 0.0]
    for turn in range(TURNS):
        for which in (0, 1) if turn % 2 else (1, 0):
            times, seconds = await count((few, many)[which], turn * 1_000_003, SECONDS)
            if turn:  # the first warms up
                done[which] += times
                spent[which] += seconds
    return done[0] / spent[0], done[1] / spent[1]


async def measure(made: Installation, rows: int) -> list[Result]:
    """Rates on two databases of one server, one with a thousand rows in each table, one with `rows`."""
    async with AsyncExitStack() as stack:
        sides = [await _side(made, f"growth_{count}", count, stack) for count in (FEW, rows)]
        few, many = (side.all() for side in sides)
        return [_result(name, *await compare(few[name], many[name]), rows) for name in few]


async def _side(made: Installation, database: str, rows: int, stack: AsyncExitStack) -> Operations:
    """A filled copy of the empty database, and the operations on it."""
    administrator = await asyncpg.connect(made.postgres.dsn())
    try:
        await administrator.execute(f"create database {database} template {made.database}")
    finally:
        await administrator.close()
    running.say(f"  filling {len(FILLED)} tables to {rows:,} rows …")
    superuser = await asyncpg.connect(made.postgres.dsn(database=database))
    try:
        await superuser.execute("insert into marketing.position (shard, next) values (0, 0) on conflict do nothing")
        await grown.fill(superuser, list(FILLED), 1, rows)
        await superuser.execute("vacuum")
        await superuser.execute("checkpoint")
    finally:
        await superuser.close()
    databases = {}
    for service in ("newsletter", "subjects", "marketing", "ledger"):
        databases[service] = await Database.connect(made.postgres.dsn(service, database), service, max_size=CLIENTS)
        stack.push_async_callback(databases[service].close)
    operations = Operations(made, databases, rows)
    await operations.start()
    return operations


def _result(name: str, few: float, many: float, rows: int) -> Result:
    share = many / few
    return Result(
        part="growth",
        measured=f"{name}, at {rows:,} rows beside {FEW:,}",
        figure=f"{few:,.0f}/s → {many:,.0f}/s, **{share:.0%}**",
        aim=f"{AT_LEAST:.0%}",
        met=share >= AT_LEAST,
        bound="both cores, PostgreSQL",
        values={"few": few, "many": many, "share": share, "rows": rows},
    )
