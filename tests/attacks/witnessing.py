"""A witness that somebody else runs: it has cosigned the true log to its end, and is asked to cosign another."""

from __future__ import annotations

import asyncio
import os
from base64 import b64encode
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from services.ledger.outside.witnesses import DISAGREES, Witnesses
from services.ledger.reader.policy import Policy, parse_policy
from services.witness.main import doors
from services.witness.memory import Memory
from services.witness.witness import Answer, Witness
from shared.clock import utc_now
from shared.errors import Corrupt
from shared.outside import Outside
from shared.process import serve_http
from tests.attacks.declared import Check, Notices

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.attacks.liar import Liar
    from tests.attacks.site import Site

NAME = "neighbour"
_POLICY = f"log {{log}}\nwitness {NAME} {{vkey}} {{url}}\nquorum {NAME}\n"


async def begin(folder: Path, liar: Liar, *checkpoints: bytes) -> None:
    """A witness that has seen these checkpoints, one after the other."""
    Memory.create(folder, f"{NAME}.example", os.urandom)
    Memory.trust(folder, liar.signer.vkey)
    memory = Memory.open(folder)
    old = 0
    for checkpoint in checkpoints:
        size = int(checkpoint.split(b"\n")[1])
        answer = await hand(Witness(memory, utc_now), old, liar.at(size), checkpoint)
        assert answer.status == 200, answer.body
        old = size
    memory.close()


async def hand(witness: Witness, old: int, liar: Liar, checkpoint: bytes) -> Answer:
    """Ask for a cosignature, with the best proof there is."""
    hashes = await liar.consistency_hashes(old)
    lines = [f"old {old}", *(b64encode(one).decode() for one in hashes), "", ""]
    return await witness.add_checkpoint("\n".join(lines).encode() + checkpoint)


async def cosigned(site: Site) -> Policy:
    """Let the witness cosign the newest checkpoint as the signer asks it to; the policy of whoever wants that."""
    async with _listening(site.folder / "witness") as (vkey, url):
        http = Outside()
        try:
            policy = parse_policy(_POLICY.format(log=site.vkey, vkey=vkey, url=url).encode())
            await Witnesses(0, await site.world.database("ledger_publish"), policy, http).ask()
        finally:
            await http.close()
    return policy


async def look(true: Site, notices: Notices, shown: Site | None = None) -> None:
    """Start as the signer does, by asking the witness, with the true database or another."""
    site = shown or true
    async with _listening(true.folder / "witness") as (vkey, url):
        http = Outside()
        try:
            policy = parse_policy(_POLICY.format(log=true.vkey, vkey=vkey, url=url).encode())
            witnesses = Witnesses(0, await site.world.database("ledger_publish"), policy, http)
            began = perf_counter()
            try:
                await witnesses.ask()
            except Corrupt as error:
                notices.by(Check.WITNESS, f"Corrupt: {error}", perf_counter() - began)
                return
            seconds = perf_counter() - began
            said = await site.world.rows("select detail from incident where kind = $1", DISAGREES)
            assert said, "the witness has cosigned it"
            notices.by(Check.WITNESS, f"incident {DISAGREES}: {said[0]['detail']}", seconds)
        finally:
            await http.close()


async def refuse(true: Site, notices: Notices, *logs: Liar) -> None:
    """Ask the witness for each of these, as whoever has the log's key can; the last must be refused."""
    memory = Memory.open(true.folder / "witness")
    try:
        witness = Witness(memory, utc_now)
        for liar in logs:
            newest = memory.newest(true.origin)
            assert newest is not None
            began = perf_counter()
            answer = await hand(witness, newest.size, liar, liar.note().encode())
            seconds = perf_counter() - began
            assert (answer.status == 200) == (liar is not logs[-1]), answer.body
        notices.by(Check.WITNESS, f"{answer.status} {answer.body.strip()}", seconds)
    finally:
        memory.close()


@asynccontextmanager
async def _listening(folder: Path) -> AsyncIterator[tuple[str, str]]:
    memory = Memory.open(folder)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_http(doors(Witness(memory, utc_now)), "127.0.0.1", 0, port.set_result))
    try:
        yield memory.signer.vkey, f"http://127.0.0.1:{await port}"
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        memory.close()
