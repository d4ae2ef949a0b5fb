"""How long one file for a court takes, in each shape: asked over HTTP, recorded, collected, verified, handed out.

One person opts in, as `make demo` plays it; then the evidence is asked for again and again.
Each asking is itself recorded before it is answered, so a wait for the signer is in every figure.
"""

from __future__ import annotations

import io
import time
from typing import Final

from benchmarks import machine, running
from benchmarks.report import Result, milliseconds, percentile
from infra.local.installation import PROCESSES, Installation
from infra.local.screen import Screen
from infra.local.story import CHANNEL, PURPOSE, Story
from shared.client import ServiceClient

AIM: Final = 1.0
"""Seconds, p99, of each shape."""
_SHAPES: Final = ("zip", "pdf", "html")


async def measure(made: Installation, count: int) -> list[Result]:
    """Each shape so many times, one after the other."""
    story = Story(made, Screen(io.StringIO()), receipt_within=60)
    for chapter in (story.form_and_same_answer, story.mail_and_confirmation, story.record_and_receipt):
        chapter()
    client = ServiceClient(made.base_url, made.secrets.credential("compliance"), "ledger")
    body = {"subject": story.subject, "purpose": PURPOSE, "channel": CHANNEL, "role": "legal", "reason": "a benchmark"}
    found: list[Result] = []
    try:
        for shape in _SHAPES:
            running.say(f"  the evidence as {shape}, {count} times …")
            load, watch, waits, size = machine.load(), running.watch(made), [], 0
            for _ in range(count):
                began = time.perf_counter()
                size = len((await client.post("/ledger/evidence", json=body | {"shape": shape}, timeout=60)).body)
                waits.append(time.perf_counter() - began)
            usage = watch.usage()
            running.still_running(made, PROCESSES)
            p50, p99 = percentile(waits, 0.50), percentile(waits, 0.99)
            found.append(
                Result(
                    part="evidence",
                    measured=f"evidence of an opt-in asked for → {shape}, {size // 1000} kB, {count} times",
                    figure=f"p50 {milliseconds(p50)}, **p99 {milliseconds(p99)}**",
                    aim=f"p99 {milliseconds(AIM)}",
                    met=p99 <= AIM,
                    bound=usage.bound(),
                    values={
                        "shape": shape,
                        "bytes": size,
                        "times": count,
                        "p50_seconds": round(p50, 4),
                        "p99_seconds": round(p99, 4),
                        "load_before": load,
                        "others": round(usage.others, 3),
                    },
                )
            )
    finally:
        await client.close()
    return found
