"""The worked example of docs/formats.md is what the reader computes."""

import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.reader import commitment as formulas
from services.ledger.reader.checkpoint import Checkpoint, verify_checkpoint
from services.ledger.reader.leaf import Event, MapRoot, parse_leaf
from services.ledger.reader.merkle import leaf_hash
from services.ledger.reader.note import CosignatureSigner, CosignatureVerifier, Signer, format_note, parse_note
from services.ledger.reader.replica import Replica
from services.ledger.reader.state_map import Map

FORMATS = Path(__file__).parents[3] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def chapter() -> str:
    return FORMATS.read_text(encoding="utf-8").partition("\n## 20. ")[2]


@pytest.fixture(scope="module")
def example(chapter: str) -> dict[str, str]:
    return dict(re.findall(r"^    (\S+(?: \S+)*) {2,}(\S+)$", chapter, re.MULTILINE))


@pytest.fixture(scope="module")
def note(chapter: str) -> bytes:
    return chapter.partition("```\n")[2].partition("```")[0].encode()


def test_everything_follows_from_the_subjects_key(example: dict[str, str]) -> None:
    keys = formulas.derive(bytes.fromhex(example["K"]))
    statement = example["statement"].encode()
    pin = formulas.pin(keys.label_key, example["origin"], example["subject"])
    label = formulas.label(keys.label_key, example["matter"])
    opening = formulas.opening(keys.opening_key, label, 1)
    commitment = formulas.commitment(opening, pin, label, 1, statement)
    computed = [keys.label_key, keys.opening_key, keys.payload_key, pin, label, opening, commitment]
    names = ["KL", "KO", "KP", "pin", "label", "opening", "commitment"]
    assert [one.hex() for one in computed] == [example[name] for name in names]


def test_payload_and_wrapped_key_open(example: dict[str, str]) -> None:
    payload, wrapped = bytes.fromhex(example["payload"]), bytes.fromhex(example["wrapped"])
    opened = formulas.open_payload(bytes.fromhex(example["KP"]), 0, 1, payload)
    assert opened == example["statement"].encode()
    assert formulas.unwrap({7: b"\xff" * 32}, example["subject"], wrapped).hex() == example["K"]


def test_the_log_of_three_leaves_replays_to_its_roots(example: dict[str, str]) -> None:
    replica = Replica()
    for index in range(3):
        leaf = bytes.fromhex(example[f"leaf {index}"])
        replica.apply(leaf)
        assert leaf_hash(leaf).hex() == example[f"leaf hash {index}"]
    assert replica.map.root().hex() == example["map root"]
    assert replica.tree_root().hex() == example["root"]
    commitment = bytes.fromhex(example["commitment"])
    word = Event(bytes.fromhex(example["label"]), 1, 0, commitment, 1580895000000)
    assert parse_leaf(bytes.fromhex(example["leaf 1"])) == word
    assert parse_leaf(bytes.fromhex(example["leaf 2"])) == MapRoot(2, replica.map.root(), 1, 1)


def test_the_three_maps_have_their_roots(example: dict[str, str]) -> None:
    state_map = Map()
    roots = []
    for label, version, index in (
        (bytes(32), 1, 1),
        (bytes(31) + b"\x01", 2, 3),
        (b"\x80" + bytes(31), 1, 4),
    ):
        state_map.set(label, version, index, b"\x11" * 32)
        roots.append(state_map.root().hex())
    assert roots == [example["map A"], example["map AB"], example["map ABC"]]


def test_the_signed_checkpoint_verifies_and_is_made_again_to_the_byte(example: dict[str, str], note: bytes) -> None:
    checkpoint = verify_checkpoint(note, example["vkey"])
    assert checkpoint == Checkpoint(example["origin"], 3, bytes.fromhex(example["root"]))
    assert CosignatureVerifier(example["fresh vkey"]).verify(parse_note(note)) == 1580895002
    log = Signer(checkpoint.origin, Ed25519PrivateKey.from_private_bytes(b"\x01" * 32))
    fresh = CosignatureSigner(checkpoint.origin + "/fresh", Ed25519PrivateKey.from_private_bytes(b"\x02" * 32))
    text = checkpoint.text()
    assert (log.vkey, fresh.vkey) == (example["vkey"], example["fresh vkey"])
    assert format_note(text, [log.sign(text), fresh.sign(text, 1580895002)]) == note
