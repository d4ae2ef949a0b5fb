"""How fast an outsider replays a log over HTTP: every leaf, every MAP_ROOT, every tile, the checkpoint.

The log is that of `proofs`, with a MAP_ROOT after so many leaves; the auditor is the command that anybody runs, in a
process of its own, and shares this machine with the ledger that serves it.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

from benchmarks import machine, running
from benchmarks.proofs import Asks, Log, serve_alone
from benchmarks.report import Result
from benchmarks.statements import SHARD
from infra.local.installation import COMMAND, Installation

AIM: Final = 30_000
"""Leaves a second."""


async def measure(made: Installation, labels: int, batch: int) -> list[Result]:
    """Write the log, serve it, audit it."""
    superuser = await running.connect(made)
    try:
        running.say(f"  a log of {labels:,} labels, a MAP_ROOT after each {batch:,} …")
        log = Log(made, labels, batch)
        await log.write(superuser)
        vkey = str(await superuser.fetchval("select vkey from ledger.log where shard = $1", SHARD))
    finally:
        await superuser.close()
    (made.folder / "log.vkey").write_text(vkey + "\n", "utf-8")
    await serve_alone(made, Asks(made, log.subjects))
    load, watch = machine.load(), running.watch(made)
    auditor = await asyncio.create_subprocess_exec(
        *(str(COMMAND), "log", "audit", f"{made.base_url}/ledger/log/{SHARD}"),
        *("--vkey", str(made.folder / "log.vkey"), "--json"),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await auditor.communicate()
    usage = watch.usage()
    found = json.loads(printed)
    if auditor.returncode or not found["holds"]:
        raise RuntimeError("the audit did not find that the log holds")
    rate = int(found["size"]) / found["seconds"]
    return [
        Result(
            part="audit",
            measured=f"an outsider's replay of {int(found['size']):,} leaves over HTTP, a MAP_ROOT every {batch:,}",
            figure=f"**{rate:,.0f} leaves/s** ({found['seconds']:.1f} s)",
            aim=f"{AIM:,}/s",
            met=rate >= AIM,
            bound=usage.bound(),
            values={
                "labels": labels,
                "batch": batch,
                "leaves_a_second": round(rate),
                "load_before": load,
                "others": round(usage.others, 3),
            },
        )
    ]
