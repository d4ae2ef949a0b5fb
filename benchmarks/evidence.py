"""How long one file for a court takes, in each shape: asked over HTTP, recorded, collected, verified, handed out.

One person opts in, as `make demo` plays it; then the evidence is asked for again and again.
Each asking is itself recorded before it is answered, so a wait for the signer is in every figure.
The page is then opened from a file in headless Chromium, if there is one, and says how long it took to verify.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
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
_OPENINGS: Final = 10
_BROWSER: Final = ("--headless", "--disable-gpu", "--timeout=10000", "--dump-dom")
_TOOK: Final = re.compile(r"Prüfdauer: ([0-9]+) ms")


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
            load, watch, waits, content = machine.load(), running.watch(made), [], b""
            for _ in range(count):
                began = time.perf_counter()
                content = (await client.post("/ledger/evidence", json=body | {"shape": shape}, timeout=60)).body
                waits.append(time.perf_counter() - began)
            usage = watch.usage()
            running.still_running(made, PROCESSES)
            size = len(content)
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
    browser = shutil.which("chromium")
    if browser is None:
        running.say("  no chromium: how long the page takes to verify is not measured")
        return found
    return [*found, await _opened(browser, content)]


async def _opened(browser: str, page: bytes) -> Result:
    """The page of the last shape, opened from a file so many times, each in a browser of its own."""
    running.say(f"  the page in a browser, {_OPENINGS} times …")
    load, times = machine.load(), []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "evidence.html"
        file.write_bytes(page)
        root = ("--no-sandbox",) if os.geteuid() == 0 else ()
        for _ in range(_OPENINGS):
            command = (browser, *_BROWSER, *root, f"--user-data-dir={folder}/profile", file.as_uri())
            shown = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            said = (await shown.communicate())[0].decode("utf-8", "replace")
            took = _TOOK.search(said)
            if took is None or 'data-verdict="valid"' not in said:
                raise RuntimeError("the page did not say that it is valid")
            times.append(int(took[1]) / 1000)
    p50, worst = percentile(times, 0.50), max(times)
    return Result(
        part="evidence",
        measured=f"the page verifies itself in Chromium, from a file, {_OPENINGS} times",
        figure=f"p50 {milliseconds(p50)}, **at most {milliseconds(worst)}**",
        aim=f"at most {milliseconds(AIM)}",
        met=worst <= AIM,
        bound="the browser",
        values={"times": _OPENINGS, "p50_seconds": p50, "worst_seconds": worst, "load_before": load},
    )
