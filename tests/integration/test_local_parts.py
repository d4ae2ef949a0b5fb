"""The launcher of real parts: up, down, killed, orphaned, taken, in awkward places, and with a broken cache."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from infra.local import clean, downloads, postgres, state
from infra.local.kafka import Kafka, free_ports
from infra.local.launch import started
from infra.local.postgres import Postgres
from infra.local.processes import Claim, InUse, NotStarted, Process, Running, end_left_behind, holder, tail
from infra.local.state import State, free_slot
from tests.parts import Database, KafkaPart, Parts, PostgresPart, plan

SLEEPER = ["/bin/sh", "-c", "while :; do sleep 1000 & wait $!; done"]
STUBBORN = ["/bin/sh", "-c", 'trap "" TERM; echo deaf; while :; do sleep 1000 & wait $!; done']


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        threading.Event().wait(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a state folder that the server's user can reach (pytest's own is closed to others), cleaned up after."""
    here = state.LOCAL / "tests" / f"launcher-{os.getpid()}-{tmp_path.name}"
    here.mkdir(parents=True)
    yield here
    clean.clean(here, state.spare_place(here))


def permissions(path: str) -> str:
    """What `ls -l` shows of a file; empty if there is none."""
    return stat.filemode(Path(path).stat().st_mode) if Path(path).exists() else ""


async def answers(dsn: str, question: str = "select 1") -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def stored(bootstrap: str, topic: str) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        end = (await consumer.end_offsets([partition]))[partition]
        found: list[bytes | None] = []
        while len(found) < end:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                found += [record.value for record in records]
        return found
    finally:
        await consumer.stop()


async def create(bootstrap: str, topic: str) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(topic, 1, 1)])
        return int(answer.topic_errors[0][1])
    finally:
        await admin.close()


async def send(bootstrap: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def test_postgres_starts_stops_and_comes_back_with_its_data_after_kill_9(folder: Path) -> None:
    server = Postgres(folder)
    server.start()
    assert str(await answers(server.dsn(), "show server_version")).startswith("18.")
    for setting, wanted in (("fsync", "on"), ("synchronous_commit", "on"), ("listen_addresses", "")):
        assert await answers(server.dsn(), f"show {setting}") == wanted
    await answers(server.dsn(), "create table kept as select 42 as value")
    server.kill()
    with pytest.raises((ConnectionError, FileNotFoundError)):
        await answers(server.dsn())
    server.restart()
    assert await answers(server.dsn(), "select value from kept") == 42
    server.stop()
    with pytest.raises((ConnectionError, FileNotFoundError)):
        await answers(server.dsn())
    server.start()
    assert await answers(server.dsn(), "select value from kept") == 42
    server.stop()


async def test_kafka_starts_stops_and_comes_back_on_its_port_with_its_data_after_kill_9(folder: Path) -> None:
    broker = Kafka(folder)
    broker.start()
    address = broker.bootstrap
    assert await create(address, "kept") == 0
    await send(address, "kept", b"one")
    broker.kill()
    broker.restart()
    assert broker.bootstrap == address
    await send(address, "kept", b"two")
    broker.stop()
    broker.start()
    assert await stored(broker.bootstrap, "kept") == [b"one", b"two"]
    broker.stop()


async def test_kafka_creates_no_topic_by_itself(kafka: KafkaPart, topic_prefix: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        await admin.describe_topics([topic_prefix + "misspelt"])
        assert topic_prefix + "misspelt" not in await admin.list_topics()
    finally:
        await admin.close()


def test_kafka_takes_another_port_when_its_own_is_gone(folder: Path) -> None:
    broker = Kafka(folder)
    broker.start()
    broker.stop()
    host, port = broker.bootstrap.split(":")
    with socket.create_server((host, int(port))), broker:
        assert broker.bootstrap != f"{host}:{port}"


def test_kafka_takes_other_ports_when_it_loses_one_between_choice_and_bind(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder_of_a_port:
        taken = holder_of_a_port.getsockname()[1]
        choices = [free_ports(), (free_ports()[0], taken)]
        with Kafka(folder, choices.pop) as broker:
            assert not choices
            assert broker.bootstrap != f"127.0.0.1:{taken}"


async def test_postgres_works_where_a_socket_path_would_be_too_long_or_hold_a_comma(folder: Path) -> None:
    long = folder / ("umläute, blanks and much more of the same " * 4)
    long.mkdir()
    with Postgres(long) as server:
        assert len(os.fsencode(server.socket_dir)) + len("/.s.PGSQL.5432") < 100
        assert await answers(server.dsn()) == 1
        assert permissions(server.socket_dir) == "drwx------"
    # Under root in a closed checkout it is near its data, in the spare place; else below the temporary directory.
    assert permissions(server.socket_dir) == "" or server.socket_dir.startswith(str(state.spare_folder()))


async def test_kafka_works_below_a_long_path_with_commas_and_umlauts(folder: Path) -> None:
    long = folder / ("umläute, blanks and much more of the same " * 4)
    long.mkdir()
    with Kafka(long) as broker:
        assert await create(broker.bootstrap, "somewhere") == 0


def test_pg_dump_and_psql_fit_the_server(postgres: PostgresPart, database: Database) -> None:
    dump = subprocess.run(
        [postgres.binary("pg_dump"), "--schema-only", database.dsn()], capture_output=True, text=True, check=True
    )
    assert "PostgreSQL database dump" in dump.stdout
    asked = subprocess.run(
        [postgres.binary("psql"), database.dsn(), "-Atc", "select current_database()"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.strip() == database.name


async def test_each_test_has_a_database_of_its_own(database: Database) -> None:
    assert await answers(database.dsn(), "select current_database()") == database.name
    assert await answers(database.dsn(), "select count(*) from pg_stat_user_tables where relname = 'left_behind'") == 0
    await answers(database.dsn(), "create table left_behind ()")


async def test_the_next_test_does_not_see_it(database: Database) -> None:
    assert await answers(database.dsn(), "select count(*) from pg_stat_user_tables where relname = 'left_behind'") == 0


def test_what_a_killed_launcher_left_is_found_and_ended(folder: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from infra.local.processes import Process
        child = Process(Path(sys.argv[1]), "part")
        child.start(sys.argv[2:], directory=Path("/"), log=Path(sys.argv[1]) / "log", dies_with_parent=False)
        print(child.pid, flush=True)
        time.sleep(1000)
    """)
    launcher = subprocess.Popen([sys.executable, "-c", script, str(folder), *SLEEPER], stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    orphan = int(launcher.stdout.readline())
    until((folder / "processes" / "part.json").exists)
    with pytest.raises(InUse):
        Process(folder, "part").claim()
    assert end_left_behind(folder) == []  # nothing is left behind while its launcher lives
    launcher.kill()
    launcher.communicate()
    assert started(orphan) is not None
    with State(folder, "the next run") as found:
        assert found.left_behind == ["part"]
    assert started(orphan) is None


def test_a_part_dies_with_a_killed_launcher(folder: Path) -> None:
    script = textwrap.dedent("""
        import sys, threading, time
        from pathlib import Path
        from infra.local.postgres import Postgres
        server = Postgres(Path(sys.argv[1]))
        starter = threading.Thread(target=server.start)
        starter.start()
        starter.join()  # the end of the thread that asked for it must not be the end of the server
        print(server.pid, flush=True)
        time.sleep(1000)
    """)
    launcher = subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    assert started(pid) is not None
    launcher.kill()
    launcher.communicate()
    until(lambda: started(pid) is None)


async def test_a_postgres_left_by_kill_9_is_ended_and_its_data_used_again(folder: Path) -> None:
    first = Postgres(folder)
    first.start()
    await answers(first.dsn(), "create table kept as select 42 as value")
    # As after kill -9 of the run with a kernel that tells the server nothing: the name is free, the server lives.
    first._server._claim.release()
    assert started(first.pid) is not None
    with Postgres(folder) as second:
        assert second.pid != first.pid
        assert first._server.wait(5) is not None
        assert await answers(second.dsn(), "select value from kept") == 42


async def test_postgres_starts_beside_a_stranger_with_the_pid_of_its_lock_file(folder: Path) -> None:
    server = Postgres(folder)
    server.start()
    server.stop()
    with Process(folder, "stranger") as stranger:
        stranger.start(SLEEPER, directory=Path("/"), log=folder / "log", user=server._user)
        assert server._home is not None
        lock = server._home / "data" / "postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{lock.parent}\n1\n5432\n\n\n")
        server.start()
        assert await answers(server.dsn()) == 1
        assert stranger.running
        server.stop()


def test_a_stranger_with_a_recorded_pid_is_left_alone(folder: Path) -> None:
    with Process(folder, "stranger") as stranger:
        stranger.start(SLEEPER, directory=Path("/"), log=folder / "log")
        record = folder / "processes" / "part.json"
        facts = {"pid": stranger.pid, "started": "another boot 1", "stop_signal": 9}
        record.write_text(json.dumps(facts))
        assert Running.on_record(facts) is None
        assert end_left_behind(folder) == []
        assert not record.exists()
        Process(folder, "part").claim()
        assert stranger.running


def test_a_record_cut_short_is_no_obstacle(folder: Path) -> None:
    record = folder / "processes" / "part.json"
    record.parent.mkdir()
    record.write_text('{"pid": 12')
    assert end_left_behind(folder) == []
    with Process(folder, "part") as part:
        part.start(SLEEPER, directory=Path("/"), log=folder / "log")
        assert part.running


def test_the_record_is_written_by_the_process_itself_and_names_it(folder: Path) -> None:
    with Process(folder, "part") as part:
        part.start(SLEEPER, directory=Path("/"), log=folder / "log")
        until(lambda: holder(folder / "processes" / "part.json"))
        assert holder(folder / "processes" / "part.json")["pid"] == part.pid
        assert holder(folder / "processes" / "part.json")["started"] == started(part.pid)
        pid = part.pid
    assert started(pid) is None
    assert not (folder / "processes" / "part.json").exists()


def test_one_that_does_not_stop_when_asked_is_ended(folder: Path) -> None:
    with Process(folder, "stubborn", grace=0.2) as stubborn:
        stubborn.start(STUBBORN, directory=Path("/"), log=folder / "log")
        until(lambda: "deaf" in tail(folder / "log"))
        stubborn.stop()
        assert stubborn.status == -signal.SIGKILL


def test_a_second_run_says_clearly_that_the_first_runs_and_where(folder: Path) -> None:
    with State(folder, "make demo") as first:
        first.say("http://127.0.0.1:8080/")
        with pytest.raises(
            InUse, match=r"make demo is already running.*process \d+, http://127.0.0.1:8080/.*make clean"
        ):
            State(folder, "make demo").take()
    with State(folder, "make demo"):
        pass


def test_a_part_in_use_is_not_taken_over(folder: Path) -> None:
    with Postgres(folder) as server:
        with pytest.raises(InUse, match="postgres is already running"):
            Postgres(folder).start()
        assert started(server.pid) is not None


def test_test_runs_beside_each_other_get_folders_of_their_own(folder: Path) -> None:
    first, second = free_slot(folder, "tests"), free_slot(folder, "tests")
    assert first.folder != second.folder
    first.release()
    again = free_slot(folder, "tests")
    assert again.folder == first.folder
    again.release()
    second.release()


def test_clean_ends_a_run_and_its_parts_and_removes_what_it_kept(folder: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from infra.local.postgres import Postgres
        from infra.local.state import State
        folder = Path(sys.argv[1])
        with State(folder, "a run") as state:
            server = Postgres(folder)
            server.start()
            print(server.pid, flush=True)
            time.sleep(1000)
    """)
    state_dir = folder / "deep" / "demo"
    run = subprocess.Popen([sys.executable, "-c", script, str(state_dir)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    reaper = threading.Thread(target=run.communicate)  # its parent, as a shell would be: a zombie is no end
    reaper.start()
    assert clean.clean(folder, state.spare_place(state_dir))[0] == "a run"
    reaper.join()
    assert run.returncode == -signal.SIGTERM
    until(lambda: started(pid) is None)
    assert not folder.exists()


def test_a_server_that_cannot_start_shows_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(postgres.SETTINGS, "shared_buffers", "many")
    with pytest.raises(NotStarted, match='invalid value for parameter "shared_buffers"'):
        Postgres(folder).start()


class TestJars:
    """The cache of jars, filled here from a folder that plays Maven Central."""

    one = downloads.Jar("org.example", "one", "1.0", "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed")
    two = downloads.Jar("org.example", "two", "2.0", "3fc4ccfe745870e2c0d99f71f30ff0656c8dedd41cc1d7d3d376b0dbe685e2f3")

    def fetch(self, jar: downloads.Jar, place: Path) -> Path:
        self.fetched = [*getattr(self, "fetched", []), jar]
        place.write_text(jar.artifact)
        return place

    def test_are_fetched_once(self, tmp_path: Path) -> None:
        assert [path.read_text() for path in downloads.jars(tmp_path, [self.one, self.two], self.fetch)] == [
            "one",
            "two",
        ]
        downloads.jars(tmp_path, [self.one, self.two], self.fetch)
        assert len(self.fetched) == 2

    @pytest.mark.parametrize("broken", [b"", b"on", b"another"])
    def test_that_are_broken_are_fetched_again(self, tmp_path: Path, broken: bytes) -> None:
        files = downloads.jars(tmp_path, [self.one, self.two], self.fetch)
        files[0].write_bytes(broken)
        downloads.jars(tmp_path, [self.one, self.two], self.fetch)
        assert files[0].read_text() == "one"
        assert len(self.fetched) == 3

    def test_of_a_killed_download_are_cleared_away(self, tmp_path: Path) -> None:
        (tmp_path / "incoming-killed").mkdir()
        (tmp_path / "incoming-killed" / "half.jar").write_text("o")
        files = downloads.jars(tmp_path, [self.one], self.fetch)
        assert sorted(tmp_path.iterdir()) == sorted([*files, tmp_path / "lock"])

    def test_that_arrive_with_other_content_are_refused(self, tmp_path: Path) -> None:
        def wrong(_jar: downloads.Jar, place: Path) -> Path:
            place.write_text("<html>Please log in to this network</html>")
            return place

        with pytest.raises(downloads.Missing, match="other content than the pinned one"):
            downloads.jars(tmp_path, [self.one], wrong)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]

    def test_that_cannot_be_fetched_are_named_with_what_to_do(self, tmp_path: Path) -> None:
        def unreachable(_jar: downloads.Jar, _place: Path) -> Path:
            raise ConnectionError("no route to host")

        with pytest.raises(
            downloads.Missing, match=r"(?s)org.example:one:1.0.*no route.*What to do: connect.*copy the folder"
        ):
            downloads.jars(tmp_path, [self.one, self.two], unreachable)

    def test_asked_for_by_two_runs_at_once_are_fetched_by_one(self, tmp_path: Path) -> None:
        both_want_them = threading.Barrier(2)

        def run() -> None:
            both_want_them.wait()
            downloads.jars(tmp_path, [self.one, self.two], self.fetch)

        runs = [threading.Thread(target=run) for _ in range(2)]
        for each in runs:
            each.start()
        for each in runs:
            each.join()
        assert len(self.fetched) == 2

    def test_of_the_list_are_pinned_one_by_one(self) -> None:
        jars = downloads.pinned()
        assert len(jars) == len({(jar.group, jar.artifact) for jar in jars}) == 45
        assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
        assert [jar.version for jar in jars if jar.artifact == "kafka_2.13"] == ["4.4.0"]


def test_the_cache_is_where_the_user_keeps_caches(tmp_path: Path) -> None:
    find = downloads.cache_folder
    assert find({"CONSENT_LEDGER_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": str(tmp_path)}, tmp_path) == Path("/c")
    assert find({"XDG_CACHE_HOME": "/x", "HOME": str(tmp_path)}, tmp_path) == Path("/x/consent-ledger")
    assert find({"HOME": str(tmp_path)}, tmp_path) == tmp_path / ".cache" / "consent-ledger"
    assert find({"HOME": "/nonexistent"}, tmp_path) == tmp_path / ".local" / "cache"
    assert find({}, tmp_path) == tmp_path / ".local" / "cache"


def test_an_address_in_the_environment_comes_first_and_nothing_starts(tmp_path: Path) -> None:
    chosen = plan({"CONSENT_LEDGER_TEST_KAFKA": "kafka:9092", "CONSENT_LEDGER_TEST_POSTGRES": "postgresql://u:p@db:1/"})
    assert "address in CONSENT_LEDGER_TEST_KAFKA" in str(chosen)
    assert "address in CONSENT_LEDGER_TEST_POSTGRES" in str(chosen)
    parts = Parts(chosen)
    assert parts._state is None
    parts.close()


def test_a_claim_ends_with_the_process_that_held_it(folder: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from infra.local.processes import Claim;"
        "c = Claim(Path(sys.argv[1]), 'it'); c.take(); print(1, flush=True); time.sleep(1000)"
    )
    path = folder / "it.lock"
    other = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(InUse):
        Claim(path, "it").take()
    other.kill()
    other.communicate()
    with Claim(path, "it"):
        assert holder(path)["pid"] == os.getpid()


def test_a_cache_that_cannot_be_written_to_says_what_to_do() -> None:
    with pytest.raises(downloads.Missing, match="CONSENT_LEDGER_CACHE"):
        downloads.jars(Path("/proc/nowhere"), downloads.pinned())
