"""The witness cosigns what continues, and says no in the specification's own numbers; what it said it remembers."""

from __future__ import annotations

import asyncio
import itertools
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.log.leaf import leaf_hash
from services.ledger.log.tiles import consistency_proof
from services.ledger.log.tree import TILE_HEIGHT, TILE_WIDTH, perfect_root
from services.ledger.reader.checkpoint import Checkpoint
from services.ledger.reader.merkle import EMPTY_ROOT, root_of
from services.ledger.reader.note import CosignatureVerifier, Signer, format_note, parse_note
from services.ledger.reader.policy import parse_policy
from services.witness.main import doors
from services.witness.memory import Memory, origin_hash
from services.witness.witness import SIZE, Answer, Witness
from shared.errors import Corrupt, Refused

ORIGIN = "example.org/ledger/log/0"
LOG = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
NEXT = Signer(ORIGIN, Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HASHES = [leaf_hash(b"leaf %d" % number) for number in range(600)]
_seeds = itertools.count(1)


def root(size: int, hashes: list[bytes] = HASHES) -> bytes:
    return root_of(hashes[:size])


async def proof(old: int, size: int) -> list[bytes]:
    async def tile(level: int, n: int, width: int) -> bytes:
        step = TILE_WIDTH**level
        starts = range(n * TILE_WIDTH, n * TILE_WIDTH + width)
        return b"".join(perfect_root(HASHES[at * step : (at + 1) * step]) for at in starts)

    assert TILE_HEIGHT == 8
    return await consistency_proof(old, size, tile)


def signed(size: int, top: bytes | None = None, *keys: Signer) -> bytes:
    text = Checkpoint(ORIGIN, size, root(size) if top is None else top).text()
    return format_note(text, [key.sign(text) for key in keys or (LOG,)])


def body(old: int, hashes: list[bytes], note: bytes) -> bytes:
    return b"old %d\n" % old + b"".join(b64encode(one) + b"\n" for one in hashes) + b"\n" + note


async def honest(old: int, size: int) -> bytes:
    return body(old, await proof(old, size), signed(size))


def begin(folder: Path) -> Memory:
    Memory.create(folder, "witness.example", lambda size: bytes([next(_seeds) % 251]) * size)
    Memory.trust(folder, LOG.vkey)
    return Memory.open(folder)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return begin(tmp_path / "witness")


@pytest.fixture
def witness(memory: Memory) -> Witness:
    return Witness(memory, lambda: NOW)


def cosigned(memory: Memory, size: int, answer: Answer) -> int:
    """When the answer says that the witness saw this size."""
    assert answer.status == 200, answer
    note = signed(size) + answer.body.encode()
    return CosignatureVerifier(memory.signer.vkey).verify(parse_note(note))


async def test_what_continues_is_cosigned_with_the_time_and_can_be_read_by_monitors(
    memory: Memory, witness: Witness
) -> None:
    for old, size in ((0, 1), (1, 7), (7, 7), (7, 300), (300, 600)):
        answer = await witness.add_checkpoint(await honest(old, size))
        assert cosigned(memory, size, answer) == int(NOW.timestamp())
        note = witness.checkpoint(sha256(ORIGIN.encode()).hexdigest())
        assert note is not None
        policy = parse_policy(f"log {LOG.vkey}\nwitness w {memory.signer.vkey}\nquorum w\n".encode())
        assert policy.verify(note).checkpoint.size == size


async def test_an_origin_that_is_not_watched_is_404(tmp_path: Path) -> None:
    Memory.create(tmp_path, "witness.example", bytes)
    witness = Witness(Memory.open(tmp_path), lambda: NOW)
    assert (await witness.add_checkpoint(await honest(0, 3))).status == 404


async def test_no_known_key_and_a_known_key_that_does_not_verify_are_403(witness: Witness) -> None:
    assert (await witness.add_checkpoint(body(0, [], signed(3, None, NEXT)))).status == 403
    text = Checkpoint(ORIGIN, 3, root(3)).text()
    other = Checkpoint(ORIGIN, 4, root(4)).text()
    forged = format_note(text, [LOG.sign(other)])
    assert (await witness.add_checkpoint(body(0, [], forged))).status == 403
    spoiled = format_note(text, [LOG.sign(text), LOG.sign(other)])
    assert (await witness.add_checkpoint(body(0, [], spoiled))).status == 403


async def test_an_old_size_above_the_checkpoints_is_400_and_one_that_is_not_the_newest_409_with_the_one_that_is(
    witness: Witness,
) -> None:
    assert (await witness.add_checkpoint(await honest(0, 5))).status == 200
    assert (await witness.add_checkpoint(body(9, [], signed(7)))).status == 400
    for request in (await honest(0, 9), await honest(3, 9), await honest(6, 9), await honest(0, 3)):
        assert await witness.add_checkpoint(request) == Answer(409, "5\n", SIZE)


async def test_what_does_not_continue_is_422_and_leaves_everything_as_it_was(memory: Memory, witness: Witness) -> None:
    assert (await witness.add_checkpoint(body(0, [HASHES[0]], signed(5)))).status == 422
    assert (await witness.add_checkpoint(body(0, [], signed(0, HASHES[0])))).status == 422
    assert (await witness.add_checkpoint(await honest(0, 5))).status == 200
    another = root(9, HASHES[100:])
    right = await proof(5, 9)
    for wrong in (
        body(5, right, signed(9, another)),
        body(5, right[:-1], signed(9)),
        body(5, [*right, HASHES[0]], signed(9)),
        body(5, [], signed(9)),
        body(5, [], signed(5, root(5, HASHES[100:]))),
        body(5, [HASHES[0]], signed(5)),
    ):
        assert (await witness.add_checkpoint(wrong)).status == 422
    newest = memory.newest(ORIGIN)
    assert newest is not None
    assert newest.size == 5


async def test_an_empty_tree_is_cosigned_as_such(witness: Witness) -> None:
    assert (await witness.add_checkpoint(body(0, [], signed(0, EMPTY_ROOT)))).status == 200
    assert (await witness.add_checkpoint(await honest(0, 2))).status == 200


MALFORMED = [
    b"",
    b"old 0\n",
    b"old 0\n\n",
    b"old 00\n\n" + signed(1),
    b"old -1\n\n" + signed(1),
    b"new 0\n\n" + signed(1),
    b"old 18446744073709551616\n\n" + signed(1),
    b"old 1\nAAAA\n\n" + signed(3),
    b"old 1\nnot base64\n\n" + signed(3),
    b"old 1\n" + (b64encode(bytes(32)) + b"\n") * 64 + b"\n" + signed(3),
    b"old 1\r\n\r\n" + signed(3),
    "old 1 \u2014\n\n".encode() + signed(3),
]


@pytest.mark.parametrize("request_body", MALFORMED)
async def test_what_is_no_request_is_400(witness: Witness, request_body: bytes) -> None:
    assert (await witness.add_checkpoint(request_body)).status == 400


@given(st.binary(max_size=300))
def test_whatever_comes_is_answered_and_never_cosigned(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    witness = Witness(begin(tmp_path_factory.mktemp("w")), lambda: NOW)
    assert asyncio.run(witness.add_checkpoint(data)).status in {400, 403, 404}


async def test_every_flipped_bit_of_a_request_is_refused_or_is_no_part_of_what_is_signed(
    tmp_path: Path,
) -> None:
    memory = begin(tmp_path / "w")
    witness = Witness(memory, lambda: NOW)
    assert (await witness.add_checkpoint(await honest(0, 3))).status == 200
    before = memory.note(origin_hash(ORIGIN))
    request = await honest(3, 5)
    number = int.from_bytes(request, "big")
    for bit in range(8 * len(request)):
        answer = await witness.add_checkpoint((number ^ 1 << bit).to_bytes(len(request), "big"))
        assert answer.status in {400, 403, 404, 409, 422}
    assert memory.note(origin_hash(ORIGIN)) == before


async def test_of_many_at_once_the_size_only_grows(memory: Memory, witness: Witness) -> None:
    """The specification's race: each request is right for what was the newest when it was written."""
    requests = [await honest(old, size) for old in (0, 10, 20) for size in (10, 20, 30) if size >= old]
    sizes = []

    async def ask(request: bytes) -> None:
        answer = await witness.add_checkpoint(request)
        assert answer.status in {200, 409}
        newest = memory.newest(ORIGIN)
        assert newest is not None
        sizes.append(newest.size)

    await asyncio.gather(*(ask(request) for request in requests * 3))
    assert sizes == sorted(sizes)


async def test_what_it_said_it_remembers_after_a_restart(memory: Memory, witness: Witness, tmp_path: Path) -> None:
    assert (await witness.add_checkpoint(await honest(0, 50))).status == 200
    memory.close()
    again = Witness(Memory.open(tmp_path / "witness"), lambda: NOW)
    assert (await again.add_checkpoint(await honest(0, 60))).body == "50\n"
    assert (await again.add_checkpoint(await honest(50, 60))).status == 200


async def test_nothing_is_said_that_could_not_be_written_down(memory: Memory, witness: Witness, tmp_path: Path) -> None:
    assert (await witness.add_checkpoint(await honest(0, 5))).status == 200
    place = tmp_path / "witness" / "checkpoints"
    # A folder in the place of the draft: not even root can write there.
    (place / f".{origin_hash(ORIGIN)}.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        await witness.add_checkpoint(await honest(5, 9))
    newest = memory.newest(ORIGIN)
    assert newest is not None
    assert newest.size == 5


def test_two_processes_are_not_one_witness(memory: Memory, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="another witness holds them"):
        Memory.open(tmp_path / "witness")
    memory.close()
    Memory.open(tmp_path / "witness").close()


async def test_an_altered_memory_is_not_gone_on_from(memory: Memory, witness: Witness, tmp_path: Path) -> None:
    assert (await witness.add_checkpoint(await honest(0, 5))).status == 200
    memory.close()
    place = tmp_path / "witness" / "checkpoints" / origin_hash(ORIGIN)
    place.write_bytes(place.read_bytes().replace(b"\n5\n", b"\n4\n"))
    with pytest.raises(Corrupt, match="does not verify"):
        Memory.open(tmp_path / "witness")


def test_a_key_is_never_replaced_and_what_is_no_key_is_not_trusted(memory: Memory, tmp_path: Path) -> None:
    folder = tmp_path / "witness"
    with pytest.raises(Refused, match="witness-exists"):
        Memory.create(folder, "witness.example", bytes)
    for vkey in (LOG.vkey, "nonsense", memory.signer.vkey):
        with pytest.raises(Refused, match="no-key"):
            Memory.trust(folder, vkey)
    with pytest.raises(Refused, match="no-name"):
        Memory.create(tmp_path / "other", "a name", bytes)
    with pytest.raises(Refused, match="no-witness"):
        Memory.open(tmp_path / "nowhere")
    assert (folder / "key").stat().st_mode & 0o077 == 0


async def test_after_a_rotation_either_key_is_enough(tmp_path: Path) -> None:
    begin(tmp_path).close()
    assert Memory.trust(tmp_path, NEXT.vkey) == ORIGIN
    witness = Witness(Memory.open(tmp_path), lambda: NOW)
    assert (await witness.add_checkpoint(await honest(0, 5))).status == 200
    for size, keys in ((7, (LOG, NEXT)), (9, (NEXT,))):
        newest = witness._memory.newest(ORIGIN)
        assert newest is not None
        request = body(newest.size, await proof(newest.size, size), signed(size, None, *keys))
        assert (await witness.add_checkpoint(request)).status == 200


async def test_over_http_it_answers_as_the_specification_says(memory: Memory, witness: Witness) -> None:
    transport = httpx.ASGITransport(doors(witness))
    async with httpx.AsyncClient(transport=transport, base_url="http://witness.example") as client:
        path = f"/{origin_hash(ORIGIN)}/checkpoint"
        assert (await client.get(path)).status_code == 404
        answer = await client.post("/add-checkpoint", content=await honest(0, 4))
        assert cosigned(memory, 4, Answer(answer.status_code, answer.text)) == int(NOW.timestamp())
        late = await client.post("/add-checkpoint", content=await honest(0, 9))
        assert (late.status_code, late.text, late.headers["content-type"]) == (409, "4\n", SIZE)
        assert parse_note((await client.get(path)).content).text == Checkpoint(ORIGIN, 4, root(4)).text()
        assert (await client.get("/add-checkpoint")).status_code == 405
        assert (await client.get(f"/{'0' * 63}G/checkpoint")).status_code == 404
        assert (await client.post("/add-checkpoint", content=bytes(200_000))).status_code == 413
        assert (await client.get("/witness/metrics")).status_code == 401
