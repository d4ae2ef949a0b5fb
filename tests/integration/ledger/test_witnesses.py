"""Our checkpoints at witnesses: our own witness as the peer, over real HTTP."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.local.installation import free_port
from services.ledger import main, store
from services.ledger.integrity.finding import Finding, Trusted
from services.ledger.integrity.running import RunningCheck
from services.ledger.outside.cosignatures import cosigned_checkpoint
from services.ledger.outside.witnesses import DISAGREES, KNOWS_MORE, Peer, Witnesses
from services.ledger.procedures.log_check import check_log
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.note import Signer, format_note
from services.ledger.reader.policy import Policy, parse_policy
from services.witness.main import doors
from services.witness.memory import Memory
from services.witness.witness import Witness
from shared.clock import utc_now
from shared.database import Signal
from shared.errors import Corrupt, Refused
from shared.outside import Outside
from shared.process import serve_http
from tests.integration.ledger.world import World, given, new_subject


class Neighbour:
    """A witness that somebody else runs, and where."""

    def __init__(self, folder: Path, name: str, world: World) -> None:
        self.name = name
        self.vkey = Memory.create(folder, f"{name}.example", os.urandom)
        Memory.trust(folder, Signer(world.settings.origin(0), world.secrets.log_key(0)).vkey)
        self.memory = Memory.open(folder)
        self.witness = Witness(self.memory, utc_now)
        self.url = "http://127.0.0.1:1"

    def line(self) -> str:
        """Say what a policy says of it."""
        return f"witness {self.name} {self.vkey} {self.url}\n"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(serve_http(doors(self.witness), "127.0.0.1", 0, port.set_result))
        self.url = f"http://127.0.0.1:{await port}"
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    def size(self, world: World) -> int:
        newest = self.memory.newest(world.settings.origin(0))
        return newest.size if newest else 0


@pytest.fixture
def neighbours(world: World, tmp_path: Path) -> list[Neighbour]:
    return [Neighbour(tmp_path / name, name, world) for name in ("w1", "w2", "w3")]


@pytest.fixture
async def http() -> AsyncIterator[Outside]:
    made = Outside()
    yield made
    await made.close()


def policy_of(world: World, *neighbours: Neighbour, quorum: int | None = None) -> Policy:
    log = f"log {Signer(world.settings.origin(0), world.secrets.log_key(0)).vkey}\n"
    names = " ".join(one.name for one in neighbours)
    lines = "".join(one.line() for one in neighbours)
    return parse_policy(f"{log}{lines}group g {quorum or 'all'} {names}\nquorum g\n".encode())


async def handing(world: World, policy: Policy, http: Outside) -> Witnesses:
    return Witnesses(0, await world.database("ledger_publish"), policy, http, pace=0.01)


async def grow(world: World) -> int:
    """Another sealed batch; the log's size."""
    appender = await world.appender()
    await world.state(given(new_subject()))
    await world.append(appender)
    await appender.drop()
    await world.seal(await world.sealer())
    return int(await world.value("select max(size) from checkpoint"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the witness is another process to us: nothing wakes us
            await asyncio.sleep(0.01)


async def served(world: World) -> bytes:
    found = await store.served_checkpoint(await world.database("ledger"), 0)
    assert found is not None
    return found[1].encode()


async def test_each_newest_checkpoint_is_cosigned_stored_and_served(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    them = neighbours[0]
    async with them.listening():
        policy = policy_of(world, them)
        witnesses = await handing(world, policy, http)
        await grow(world)
        await witnesses.ask()
        assert policy.verify(await served(world)).times.keys() == {"w1"}

        running = asyncio.create_task(witnesses.run())
        for _ in range(3):
            size = await grow(world)
            await until(lambda size=size: witnesses.peers[0].size == size)  # type: ignore[misc]
            shown = policy.verify(await served(world))
            assert (shown.checkpoint.size, set(shown.times)) == (size, {"w1"})
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    rows = await world.rows("select size, quorum from cosignature order by size")
    assert [(row["size"], row["quorum"]) for row in rows] == [(3, True), (5, True), (7, True), (9, True)]


async def test_a_witness_that_has_seen_another_size_than_we_thought_is_given_the_proof_it_needs(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    them = neighbours[0]
    async with them.listening():
        await grow(world)
        await (await handing(world, policy_of(world, them), http)).ask()
        await world.as_superuser("delete from witness; delete from cosignature")
        size = await grow(world)
        again = await handing(world, policy_of(world, them), http)
        await again.ask()
        assert again.peers[0].size == them.size(world) == size
        # And what was forgotten of the key is found again from the cosignatures themselves.
        await world.as_superuser("delete from witness")
        third = await handing(world, policy_of(world, them), http)
        await third.ask()
        assert third.peers[0].size == size


async def test_a_silent_witness_keeps_neither_the_others_nor_the_quorum_waiting(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    first, second, silent = neighbours
    async with first.listening(), second.listening():
        silent.url = f"http://127.0.0.1:{free_port()}"
        policy = policy_of(world, first, second, silent, quorum=2)
        witnesses = await handing(world, policy, http)
        size = await grow(world)
        await witnesses.ask()
        found = await cosigned_checkpoint(await world.database("ledger"), 0)
        assert found is not None
        assert found[0] == size
        assert policy.verify(found[1].encode()).times.keys() == {"w1", "w2"}
        rows = await world.rows("select quorum from cosignature order by quorum")
        assert [row["quorum"] for row in rows] == [False, True]
        assert [one.pause > 0 for one in witnesses.peers] == [False, False, True]
        # It comes back, and is given what it missed.
        async with silent.listening():
            witnesses.peers[2].url = silent.url
            running = asyncio.create_task(witnesses.run())
            await until(lambda: witnesses.peers[2].size == size)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_what_is_cosigned_stays_served_while_the_log_grows_on_without_witnesses(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    them = neighbours[0]
    assert await cosigned_checkpoint(await world.database("ledger"), 0) is None
    async with them.listening():
        policy = policy_of(world, them)
        size = await grow(world)
        await (await handing(world, policy, http)).ask()
    assert await grow(world) > size
    assert b"w1.example" not in await served(world)
    found = await cosigned_checkpoint(await world.database("ledger"), 0)
    assert found is not None
    assert policy.verify(found[1].encode()).checkpoint.size == size
    assert await cosigned_checkpoint(await world.database("ledger"), 0, size + 1) is None


ROLL_BACK = """
delete from fresh; delete from cosignature; delete from witness; delete from checkpoint where size > 3;
delete from leaf_batch where first >= 3; delete from payload where index >= 3; delete from seen where index >= 3;
update head set size = 3, next_offset = 1
"""


async def test_the_signer_does_not_start_on_a_database_that_is_behind_a_witness_and_says_why(
    world: World, neighbours: list[Neighbour], http: Outside, tmp_path: Path
) -> None:
    them = neighbours[0]
    async with them.listening():
        policy = policy_of(world, them)
        await grow(world)
        await grow(world)
        await (await handing(world, policy, http)).ask()
        # Database and signer's files both from an older backup: nothing on our side remembers.
        await world.as_superuser(ROLL_BACK)
        file = tmp_path / "policy"
        file.write_text(f"{them.line()}quorum w1\n")
        with pytest.raises(Corrupt, match="behind a witness") as stopped:
            await main.open_seal(world.settings.model_copy(update={"witness_policy": file}))
        assert "cosigned 5 leaves" in str(stopped.value)
        (row,) = await world.rows("select kind, about, detail from incident")
        assert (row["kind"], row["about"]) == (KNOWS_MORE, "w1")
        assert "rolled back" in row["detail"]
        assert "3 are signed" in row["detail"]


async def test_a_running_signer_ends_when_a_witness_that_was_silent_turns_out_to_know_more(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    them = neighbours[0]
    async with them.listening():
        policy = policy_of(world, them)
        await grow(world)
        await grow(world)
        await (await handing(world, policy, http)).ask()
        await world.as_superuser(ROLL_BACK)
    witnesses = await handing(world, policy, http)
    await witnesses.ask()
    async with them.listening(), asyncio.timeout(30):
        witnesses.peers[0].url = them.url
        with pytest.raises(ExceptionGroup) as ended:
            await witnesses.run()
    assert ended.group_contains(Corrupt, match="behind a witness")


async def test_a_witness_that_has_seen_another_history_is_an_incident(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    them = neighbours[0]
    signer = Signer(world.settings.origin(0), world.secrets.log_key(0))
    text = Checkpoint(world.settings.origin(0), 2, b"\x07" * 32).text()
    forked = await them.witness.add_checkpoint(b"old 0\n\n" + format_note(text, [signer.sign(text)]))
    assert forked.status == 200
    await grow(world)
    async with them.listening():
        witnesses = await handing(world, policy_of(world, them), http)
        await witnesses.ask()
    (row,) = await world.rows("select kind, about, detail from incident")
    assert (row["kind"], row["about"]) == (DISAGREES, "w1")
    assert "another history" in row["detail"]
    assert await world.value("select count(*) from cosignature") == 0


async def test_a_cosignature_of_another_key_is_not_stored_and_a_witness_without_address_is_refused(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    one, other, _ = neighbours
    async with one.listening():
        other.url = one.url
        witnesses = await handing(world, policy_of(world, other), http)
        await witnesses.ask()
    assert witnesses.peers[0].pause > 0
    assert await world.value("select count(*) from cosignature") == 0
    with pytest.raises(Refused, match="without-address"):
        Peer.of(parse_policy(f"witness w {one.vkey}\nquorum w\n".encode()).witnesses[0])


async def test_what_witnesses_said_is_checked_against_the_policy_of_its_time(
    world: World, neighbours: list[Neighbour], http: Outside
) -> None:
    one, other, third = neighbours
    async with one.listening(), other.listening(), third.listening():
        policies = [policy_of(world, one, other), policy_of(world, other, third, quorum=1)]
        for policy in policies:
            witnesses = await handing(world, policy, http)
            await witnesses.ask()
            for _ in range(2):
                await grow(world)
                await witnesses.ask()
        await (await handing(world, policies[1], http)).ask()

    def trusted(policy: Policy | None) -> Trusted:
        return Trusted(world.secrets.keks(), signer_dir=world.settings.signer_dir, witnesses=policy)

    async def named(policy: Policy | None) -> list[str]:
        found = check_log(await world.database("ledger"), trusted(policy))
        return [str(one) async for one in found if isinstance(one, Finding)]

    assert await named(None) == await named(policies[1]) == []
    db = await world.database("ledger_check")
    running = RunningCheck(0, db, trusted(policies[1]), Signal(), utc_now, rests=0.0)
    assert await running.follow()
    assert await running.sweep() == 0
    [said] = await named(policies[0])
    assert said.startswith("witness_policy, shard 0, since size 5: is not the one that is configured here")
    rows = await world.rows("select since from witness_policy order by number")
    assert [row["since"] for row in rows] == [0, 5]

    names = {name: next(peer.key for peer in witnesses.peers if peer.name == name) for name in ("w2", "w3")}
    for sql, where, what in (
        ("update cosignature set quorum = false where size = 3", "cosignature, shard 0, size 3", "are enough, and it"),
        ("delete from cosignature where size = 3 and not quorum", "cosignature, shard 0, size 3", "and are not"),
        (
            """update cosignature a set line = b.line from cosignature b
               where a.size = 3 and b.size = 5 and a.key = b.key""",
            f"cosignature, shard 0, size 3, {names['w2']}",
            "does not verify",
        ),
        (
            "update cosignature set signed_at = 'infinity' where size = 9 and key ^@ 'w3'",
            f"cosignature, shard 0, size 9, {names['w3']}",
            "does not say the time",
        ),
        (
            "update cosignature set line = line || line where size = 9 and key ^@ 'w3'",
            f"cosignature, shard 0, size 9, {names['w3']}",
            "is not one line",
        ),
        (
            "update cosignature set size = 6 where size = 9",
            "cosignature, shard 0, size 6",
            "checkpoint that is not there",
        ),
        (
            """insert into cosignature
               select shard, size, 'x+0a0b0c0d', replace(line, 'w3.example', 'x'), signed_at, quorum
               from cosignature where size = 9 and key ^@ 'w3'""",
            "cosignature, shard 0, size 9, x+0a0b0c0d",
            "is of another key",
        ),
        (
            """update witness set size = 3, line = o.line, signed_at = o.signed_at
               from cosignature o where o.size = 5 and o.key = witness.key""",
            f"witness, shard 0, {names['w2']}",
            "stands at size 3",
        ),
        (r"update witness_policy set policy = E'quorum none\n'", "witness_policy, shard 0", "is not the one"),
    ):
        await world.as_superuser(
            "create table as_it_was as table cosignature; create table stood as table witness;"
            " create table wanted as table witness_policy"
        )
        await world.as_superuser(sql)
        assert any(one.startswith(where) and what in one for one in await named(policies[1])), sql
        for table, copy in (("cosignature", "as_it_was"), ("witness", "stood"), ("witness_policy", "wanted")):
            await world.as_superuser(f"delete from {table}; insert into {table} table {copy}; drop table {copy}")
        assert await named(policies[1]) == []
    await world.as_superuser("update cosignature set quorum = false where size = 3")
    assert await running.follow()
    assert await world.rows("select about from incident where kind = 'wrong-row'") == []
    assert await running.sweep() == 1, "what is old is the sweep's"
    await world.as_superuser("update witness set line = 'x'")
    assert await running.follow()
    about = await world.rows("select distinct about from incident where kind = 'wrong-row' order by about")
    assert [row["about"] for row in about] == ["cosignature", "fresh", "witness"]
