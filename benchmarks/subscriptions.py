"""Subscriptions accepted a second, beside the audit table that teams write themselves: same server, same clients.

Ours is the form's POST with a served-notice token that was signed beforehand. In it: the token's signature, the seal of
address and link by `subjects` (a pseudonym and its keys, made for somebody new), the request's row, the waiting mail,
and two statements in the outbox; then the page. Not in it, but going on meanwhile on the same cores: the mails, the
relay, the ledger, whatever follows it. So what is left to do at the end of a block is said too, and how long it takes.

Theirs is a JSON document and one row. Blocks of each take turns, and ours has nothing left to do when theirs begins.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from benchmarks import machine, running
from benchmarks.audit_table import CHAINED, PLAIN
from benchmarks.clients import HOST, Driven, drive, post
from benchmarks.processor import Usage, Watch
from benchmarks.report import Result, milliseconds, percentile
from infra.local.installation import PROCESSES, Installation, free_port
from infra.local.processes import Process
from infra.local.state import CHECKOUT
from services.newsletter.api.form import SERVED_FOR
from services.newsletter.domain import Speaker
from shared import register
from shared.served_notice import ServedNotice, ServedPurpose, issue, new_nonce
from shared.software import software

OURS: Final = "Consent Ledger"
AIM: Final = 1.0
"""Of theirs: not slower."""

_LANGUAGE: Final = "de"
_AGENT: Final = "Mozilla/5.0 (X11; Linux x86_64; rv:146.0) Gecko/20100101 Firefox/146.0"
_MOST: Final = 2_000
"""Requests a second that are made beforehand."""
_WARM_SECONDS: Final = 1.5
_STARTED_WITHIN: Final = 30.0
_LONGEST_DRAIN: Final = 300.0
_LEFT: Final = """
select (select count(*) from newsletter.mail where ended_at is null) as mails,
       (select count(*) from newsletter.outbox where sealed_at is null) as statements
"""


class SignUps:
    """Requests of people nobody knows yet: each the newsletter's form with one box ticked, or their JSON."""

    def __init__(self, made: Installation) -> None:
        self._speaker = Speaker.of(register.load(), software())
        self._notice = self._speaker.activity.notice(_LANGUAGE)
        self._purpose = self._speaker.activity.purposes[0]
        self._key = made.secrets.notice_key()

    def ours(self, count: int) -> Iterator[bytes]:
        """POST /newsletter."""
        purposes = tuple(ServedPurpose(one.purpose, one.channel, one.label) for one in self._notice.choices)
        headers = {"Accept": "text/html", "Accept-Language": _LANGUAGE, "User-Agent": _AGENT}
        for _ in range(count):
            now = datetime.now(UTC)
            served = ServedNotice(
                notice=self._notice.hash,
                language=_LANGUAGE,
                purposes=purposes,
                button=self._notice.button,
                nonce=new_nonce(os.urandom(16)),
                issued_at=now,
                expires_at=now + SERVED_FOR - timedelta(minutes=1),
            )
            token = issue(*self._key, served)
            filled = urlencode({"email": _somebody(), "purpose": self._purpose.key, "served": token})
            yield post("/newsletter", filled.encode("ascii"), "application/x-www-form-urlencoded", headers)

    def theirs(self, count: int) -> Iterator[bytes]:
        """POST /consents."""
        for _ in range(count):
            consent = {
                "address": _somebody(),
                "purpose": self._purpose.id,
                "channel": self._purpose.channel,
                "notice": self._notice.hash,
                "language": _LANGUAGE,
                "shown_at": datetime.now(UTC).isoformat(),
            }
            yield post("/consents", json.dumps(consent).encode(), "application/json", {"User-Agent": _AGENT})


def _somebody() -> str:
    return f"p{os.urandom(6).hex()}@example.org"


class Table:
    """One of their services, as a process of its own."""

    def __init__(self, made: Installation, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._made = made
        self._database = name.replace(" ", "_")
        self.process = Process(made.folder, self._database)

    async def start(self, eyes: Any) -> None:
        """Return when it answers."""
        await eyes.execute(f"create database {self._database}")
        dsn = self._made.postgres.dsn(database=self._database)
        command = [sys.executable, "-m", "benchmarks.audit_table", dsn, str(self.port)]
        log = self._made.logs / f"{self._database}.log"
        self.process.start([*command, *(["--chain"] if self.name == CHAINED else [])], directory=CHECKOUT, log=log)
        until = time.monotonic() + _STARTED_WITHIN
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, self.port)
            except OSError:
                if not self.process.running or time.monotonic() > until:
                    raise RuntimeError(f"the {self.name} does not answer; its log is {log}") from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


@dataclass(slots=True)
class Blocks:
    """All blocks of one contestant."""

    all: Driven = field(default_factory=Driven)
    rates: list[float] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)

    def add(self, driven: Driven, usage: Usage) -> None:
        """One more."""
        self.all.add(driven)
        self.rates.append(driven.rate)
        self.usages.append(usage)

    @property
    def usage(self) -> Usage:
        """Of the last block."""
        return self.usages[-1]

    def said(self) -> str:
        """Rate, waits, and the rate of each block."""
        p50, p99 = percentile(self.all.waits, 0.50), percentile(self.all.waits, 0.99)
        blocks = ", ".join(f"{one:,.0f}" for one in self.rates)
        return f"{self.all.rate:,.0f}/s, p50 {milliseconds(p50)}, p99 {milliseconds(p99)} (blocks: {blocks})"

    def costs(self) -> dict[str, int]:
        """Microseconds of processor time that each process spent for one of the last block."""
        each = {name: round(share / self.rates[-1] * 1e6) for name, share in self.usage.shares.items()}
        return {name: cost for name, cost in sorted(each.items(), key=lambda one: -one[1]) if cost}

    def values(self) -> dict[str, Any]:
        """For the line of JSON."""
        return {
            "a_second": round(self.all.rate, 1),
            "blocks_a_second": [round(one, 1) for one in self.rates],
            "p50_seconds": round(percentile(self.all.waits, 0.50), 4),
            "p99_seconds": round(percentile(self.all.waits, 0.99), 4),
            "microseconds_each": self.costs(),
            "processor": {name: round(share, 3) for name, share in self.usage.shares.items()},
            "others": round(self.usage.others, 3),
        }


@dataclass(slots=True)
class Backlog:
    """What was accepted and not yet done when a block ended, and how long the rest took."""

    mails: int = 0
    statements: int = 0
    seconds: float = 0.0


async def drain(eyes: Any) -> Backlog:
    """Wait until every mail has left and every statement is sealed; what was left at first."""
    began = time.perf_counter()
    first: Backlog | None = None
    while True:
        row = await eyes.fetchrow(_LEFT)
        first = first or Backlog(row["mails"], row["statements"])
        first.seconds = time.perf_counter() - began
        if not row["mails"] and not row["statements"]:
            return first
        if first.seconds > _LONGEST_DRAIN:
            raise RuntimeError(f"{row['mails']} mails and {row['statements']} statements were left after all that time")
        await asyncio.sleep(0.2)


def _listed(blocks: Blocks) -> str:
    return ", ".join(f"{name} {cost:,} µs" for name, cost in blocks.costs().items())


def compared(ours: Blocks, theirs: Blocks, name: str, clients: int) -> Result:
    """Both figures and their ratio."""
    ratio = ours.all.rate / theirs.all.rate
    return Result(
        part="subscriptions",
        measured=f"subscriptions accepted a second, {clients} clients, beside the {name}",
        figure=f"**{ratio:.2f} of it**: {ours.said()} against {theirs.said()}",
        aim=f"not slower than the {name}",
        met=ratio >= AIM,
        bound=f"ours: {ours.usage.bound()}; processor time each: {_listed(ours)}; theirs: {theirs.usage.bound()}; "
        f"processor time each: {_listed(theirs)}",
        values={"ratio": round(ratio, 3), "ours": ours.values(), "theirs": theirs.values()},
    )


def sustained(ours: Blocks, backlogs: list[Backlog], clients: int) -> Result:
    """Accepted and done with, mails and all."""
    accepted, doing = len(ours.all.waits), ours.all.seconds + sum(one.seconds for one in backlogs)
    mails, statements = sum(one.mails for one in backlogs), sum(one.statements for one in backlogs)
    return Result(
        part="subscriptions",
        measured=f"the same, until each had its mail and all was sealed ({accepted:,}, {clients} clients)",
        figure=f"**{accepted / doing:,.0f}/s** (when the clients stopped after {ours.all.seconds:.0f} s, "
        f"{mails:,} mails were to be sent and {statements:,} statements to be sealed: "
        f"{doing - ours.all.seconds:.0f} s more)",
        aim="",
        met=None,
        bound="mails: each is written, sealed, archived, handed over and its answer sealed, in the web process",
        values={"accepted": accepted, "seconds": round(doing, 1), "mails_left": mails, "statements_left": statements},
    )


async def measure(made: Installation, clients: int, seconds: float, rounds: int) -> list[Result]:
    """Rounds of one block each; a short one before them does not count."""
    sign_ups, eyes = SignUps(made), await running.connect(made)
    tables = [Table(made, PLAIN), Table(made, CHAINED)]
    found = {name: Blocks() for name in (OURS, PLAIN, CHAINED)}
    backlogs: list[Backlog] = []
    pids = {name: process.pid for name, process in made.processes.items()}
    try:
        for table in tables:
            await table.start(eyes)
            pids[table.name] = table.process.pid
        for number in range(rounds + 1):
            length = seconds if number else _WARM_SECONDS
            count = round(length * _MOST)
            for name, port, make in (
                *((table.name, table.port, sign_ups.theirs) for table in tables),
                (OURS, made.port, sign_ups.ours),
            ):
                running.say(f"  {name}, load {machine.load():.1f} …")
                requests = list(make(count))
                watch = Watch({**pids, "Kafka": made.kafka.pid}, made.postgres.pid)
                driven = await drive(port, clients, requests, length)
                usage = watch.usage()
                left = await drain(eyes)
                if number:
                    found[name].add(driven, usage)
                    if name == OURS:
                        backlogs.append(left)
        running.still_running(made, PROCESSES)
    finally:
        for table in tables:
            await asyncio.to_thread(table.process.stop)
        await eyes.close()
    return [
        compared(found[OURS], found[CHAINED], CHAINED, clients),
        compared(found[OURS], found[PLAIN], PLAIN, clients),
        sustained(found[OURS], backlogs, clients),
    ]
