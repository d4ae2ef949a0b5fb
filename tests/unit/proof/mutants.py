"""Bundles that an expert of the other side would try: every verifier has to say the same of each.

The forger mends manifest and archive (tests/unit/proof/forging.py). Where it says so, the operator has signed nonsense.
"""

from __future__ import annotations

import base64
import copy
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from services.ledger.evidence.bundle import files_of
from services.ledger.reader.evidence import DKIM_KEYS, KEYS, LATEST, NOTICE_KEYS
from services.ledger.reader.note import _format_vkey, _key_id, parse_note
from services.ledger.reader.strict import canonical_json
from tests.opt_in import ADDRESS, ORIGIN, OptIn
from tests.unit.proof.forging import Files, mended, named, with_json
from tests.unit.proof.proving import made, stamped

JUNK: Final = (None, True, 0, -1, 1.0, 1.5, 2**64, "", "0", "00", "1.0", "٣", [], {}, [None], "A" * 43, "\u202e", "\n")
# The neutral element, its second spelling, and a point of order 8.
SMALL_KEYS: Final = (
    (1).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
)


def complete(told: OptIn) -> Files:
    """All files that a bundle can have."""
    withdrawal = told.world.statements[told.indexes["withdrawn"]].id
    noted = {"system": "marketing", "applied_at": "2026-11-22T13:03:00.000Z", "in_transmission": ["one"]}
    stamps = [stamped(told.world, told.indexes["given"] + 2)]
    material = replace(told.material, latest=made(told.world, "latest"), stamps=stamps, effects={withdrawal: [noted]})
    return files_of(material)


def mutants(told: OptIn) -> Iterator[tuple[str, bytes]]:
    """Each by a name; all are to be refused."""
    files = complete(told)
    yield from _forms(files)
    yield from _numbers(files)
    yield from _notes(files)
    yield from _keys_of_small_order(files)
    yield from _mails()


def _forms(files: Files) -> Iterator[tuple[str, bytes]]:
    """What can be gone through like an array, and is none; a member more; a name twice."""
    effect = named(files, "effects/")
    for name, path in (
        (named(files, "statements/"), "hashes"),
        (LATEST, "map_root/hashes"),
        (LATEST, "words/0/place/siblings"),
        (named(files, "timestamps/"), "hashes"),
        (effect, "systems"),
        (effect, "systems/0/in_transmission"),
    ):
        change = _at(path, lambda held: {str(one): None for one in held})
        yield f"an object for the array {path} of {name}", mended(with_json(files, name, change))
    for name, path in (
        (LATEST, ""),
        (LATEST, "map_root"),
        (LATEST, "words/0"),
        (LATEST, "words/0/place"),
        (LATEST, "words/0/place/record"),
        (NOTICE_KEYS, ""),
        (NOTICE_KEYS, "keys/0"),
        (DKIM_KEYS, ""),
        (DKIM_KEYS, "keys/0"),
        (effect, ""),
        (effect, "systems/0"),
    ):
        change = _at(path, lambda held: {**held, "more": 1})
        yield f"a member more in {path} of {name}", mended(with_json(files, name, change))
    for name, path in ((NOTICE_KEYS, "keys"), (DKIM_KEYS, "keys")):
        yield f"a key twice in {name}", mended(with_json(files, name, _at(path, lambda held: held * 2)))
    for name, path in ((NOTICE_KEYS, "keys/0/kid"), (DKIM_KEYS, "keys/0/selector"), (effect, "systems/0/system")):
        yield f"no text as {path} of {name}", mended(with_json(files, name, _at(path, lambda _: 1)))
    without = {name: content for name, content in files.items() if not name.startswith("opened/")}
    for written in (b"{}", b'""', b"null"):
        yield f"{written!r} for no keys", mended({**without, KEYS: written})
    for path in ("words/0/entries", "words/0/entries/0/hashes", "format", "origin", "fresh_vkey", "vkey"):
        change = _at(path, lambda held: held[:-1])
        yield f"less in {path} of {LATEST}", mended(with_json(files, LATEST, change))


def _numbers(files: Files) -> Iterator[tuple[str, bytes]]:
    """JSON that not every reader understands alike."""
    latest = files[LATEST].decode()
    for written in ("1.5", "12345678901234567890", "1e0"):
        yield f"{written} for no anchor", mended({**files, LATEST: _replaced(latest, '"anchor": null', written)})
    effect = named(files, "effects/")
    noted = files[effect].decode()
    for what, written in (
        ("a number beyond a double", "1" * 400),
        ("a fraction beyond a double", "1e400"),
        ("arrays too deep", "[" * 65 + "]" * 65),
        ("arrays far too deep", "[" * 5000 + "]" * 5000),
        ("a lone surrogate", '["\\ud800"]'),
        ("NaN", "[NaN]"),
        ("a name twice", '{"a": 1, "\\u0061": 2}'),
    ):
        written_there = re.sub(r'("in_transmission": )\[[^]]*\]', lambda found, w=written: found[1] + w, noted)
        yield what, mended({**files, effect: written_there.encode()})


def _replaced(text: str, member: str, written: str) -> bytes:
    assert member in text
    return text.replace(member, member.replace("null", written)).encode()


def _notes(files: Files) -> Iterator[tuple[str, bytes]]:
    """Lines under a checkpoint; none of these is a note that the log's key has signed and nothing else."""
    note = files["checkpoint.txt"].decode()
    _, name, encoded = parse_note(note.encode()).signatures[0].line().decode().split(" ")
    spoilt = base64.b64encode(base64.b64decode(encoded)[:4] + bytes(64)).decode()
    for what, written in (
        ("a line of the log's key that does not verify", f"{note}\u2014 {name} {spoilt}\n"),
        ("CRLF", note.replace("\n", "\r\n")),
        ("CR in a line", f"{note}\u2014 other {spoilt}\r\n"),
        ("a byte order mark", f"\ufeff{note}"),
        ("a space in a key's name", f"{note}\u2014 a\u3000b {spoilt}\n"),
        ("a plus in a key's name", f"{note}\u2014 a+b {spoilt}\n"),
        ("a hyphen for the dash", note.replace("\u2014", "-")),
        ("65 lines", note + f"\u2014 other {spoilt}\n" * 63),
        ("a size with a zero in front", note.replace("\n13\n", "\n013\n")),
        ("a text with an empty line in front", f"more\n\n{note}"),
        ("no newline at the end", note[:-1]),
    ):
        without = {one: content for one, content in files.items() if one != LATEST}
        yield f"checkpoint.txt with {what}", mended({**without, "checkpoint.txt": written.encode()})


def _keys_of_small_order(files: Files) -> Iterator[tuple[str, bytes]]:
    """A log's key under which S = 0 and R = 0·B is a signature of every text, by nobody."""
    without = {name: content for name, content in files.items() if name != LATEST}
    text, _, lines = files["checkpoint.txt"].decode().partition("\n\n")
    for public in SMALL_KEYS:
        key_id, vkey = _key_id(ORIGIN, 1, public), _format_vkey(ORIGIN, 1, public)
        nobody = base64.b64encode(key_id + SMALL_KEYS[0] + bytes(32)).decode()
        signed = f"{text}\n\n\u2014 {ORIGIN} {nobody}\n{lines.splitlines()[1]}\n"
        changed = {"checkpoint.txt": signed.encode(), "vkey.txt": f"{vkey}\n".encode()}
        yield f"the key {public.hex()[:8]}", mended({**without, **changed})


def _mails() -> Iterator[tuple[str, bytes]]:
    """The operator has archived a mail in which programs see different recipients."""
    for written in (
        f"{ADDRESS}, x@y.example",
        f"{ADDRESS} (x@y.example)",
        f"x@y.example <{ADDRESS}>",
        f"all: {ADDRESS};",
        f"{ADDRESS}:25",
        "Jane.Doe@\uff45xample.org",
        "Jane.Doe@ex\u00adample.org",
        f"{ADDRESS}\r\nTo: x@y.example",
        f"{ADDRESS}\rTo: x@y.example",
    ):
        told = OptIn()
        told.letter = _written(told.letter, written)  # type: ignore[method-assign]
        yield f"a mail to {written!r}", mended(files_of(replace(told.play().material, dkim_keys={"keys": []})))


def _written(letter: Callable[[str, str], bytes], to: str) -> Callable[[str, str], bytes]:
    pattern = re.compile(rb"(?im)^To:[^\r]*(?:\r\n[ \t][^\r]*)*")
    return lambda statement, text: pattern.sub(lambda _: b"To: " + to.encode(), letter(statement, text), count=1)


def _at(path: str, change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def changed(value: Any) -> Any:
        if not path:
            return change(value)
        *way, last = [int(step) if step.isdecimal() else step for step in path.split("/")]
        inside = value
        for step in way:
            inside = inside[step]
        inside[last] = change(inside[last])
        return value

    return changed


# -- by chance


def by_chance(told: OptIn, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many bundles with one thing changed somewhere in a JSON file; the same for the same seed."""
    source = random.Random(seed)
    files = complete(told)
    names = sorted(
        name for name in files if name.endswith(".json") and not name.startswith(("register/", "manifest", "opened/"))
    )
    for _ in range(count):
        name = source.choice(names)
        value = json.loads(files[name])
        path = source.choice(list(_places(value)))
        changed = _changed(source, value, path)
        yield f"{name}: {'/'.join(map(str, path))}", mended({**files, name: canonical_json(changed)})


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    inside: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _places(inner, (*path, key))


def _changed(source: random.Random, value: Any, path: tuple[Any, ...]) -> Any:
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    held = inside[path[-1]]
    match source.randrange(6):
        case 0 if isinstance(held, list) and held:
            held.insert(source.randrange(len(held) + 1), copy.deepcopy(source.choice(held)))
        case 1 if isinstance(held, list):
            inside[path[-1]] = {str(one): None for one in held}
        case 2 if isinstance(held, dict):
            held["more"] = source.choice(JUNK)
        case 3 if isinstance(held, str) and held:
            at = source.randrange(len(held))
            inside[path[-1]] = held[:at] + source.choice("AB01 =\n-_.\u00a0z") + held[at + source.randrange(2) :]
        case 4 if isinstance(inside, dict):
            del inside[path[-1]]
        case _:
            inside[path[-1]] = source.choice(JUNK)
    return value
