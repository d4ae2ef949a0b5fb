"""Stories told by other programs than ours, by an older one of ours, and by one that breaks the rule for naming it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.ledger.evidence.bundle import Material, files_of
from services.ledger.reader.strict import encode_base64url
from shared.events import Malformed, Statement, encode, parse
from tests.opt_in import OptIn, World
from tests.unit.proof.forging import mended, with_json

OLD = "consent-ledger 0.0.9 sha256:" + "5" * 64

Told = dict[str, Any]


@dataclass
class Retold(World):
    """A log whose statements are told otherwise before they are recorded."""

    retell: Callable[[Told], None] = lambda _: None
    forged: dict[int, bytes] = field(default_factory=dict)
    """What the log commits to where that is no statement: our renderer is shown what it was made of."""

    def record(self, statements: Sequence[Statement]) -> list[int]:
        indexes = []
        for statement in statements:
            told = json.loads(encode(statement))
            self.retell(told)
            raw = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
            try:
                indexes += self.record_raw([raw], [parse(raw)])
            except Malformed:
                indexes += self.record_raw([raw], [statement])
                self.raws[indexes[-1]], self.forged[indexes[-1]] = encode(statement), raw
        return indexes

    def bundle(self, material: Material) -> bytes:
        """The bundle as a forger packs it."""
        files = files_of(material)
        for index, raw in self.forged.items():
            if (name := f"statements/{index}.json") in files:
                files = with_json(files, name, _saying(raw))
        return mended(files)


def _saying(raw: bytes) -> Callable[[Told], Told]:
    return lambda entry: {**entry, "statement": encode_base64url(raw)}


def _version_1(told: Told) -> None:
    told["dataschema"] = f"consent-ledger/{told['type']}/1"
    del told["data"]["software"]


def _before_version_2(told: Told) -> None:
    """Whoever asked did not name the software yet, and was replaced before anybody answered."""
    if told["type"] in {"ConsentRequested", "ConsentRefused"}:
        _version_1(told)
    elif told["type"] == "MessageSent":
        told["data"]["software"] = OLD


def _as(**changes: object) -> Callable[[Told], None]:
    def change(told: Told) -> None:
        told["data"] |= {name: value for name, value in changes.items() if name != "version"}
        told["dataschema"] = f"consent-ledger/{told['type']}/{changes.get('version', 2)}"

    return change


def _unnamed(told: Told) -> None:
    del told["data"]["software"]


def upgraded() -> OptIn:
    """An opt-in in the middle of which version 2 came."""
    return OptIn(world=Retold(retell=_before_version_2)).play()


def programs() -> Iterator[tuple[str, bytes, str]]:
    """What is wrong, the bundle, the key; nothing is wrong with those called true."""
    for name, retell in (
        ("true: all before version 2", _version_1),
        ("true: another team's", _as(software="booth 1.0")),
        ("true: upgraded in between", _before_version_2),
        ("version 2 without", _unnamed),
        ("version 1 with", _as(version=1)),
        ("version 3", _as(version=3)),
        ("version 02", _as(version="02")),
        ("empty", _as(software="")),
        ("none", _as(software=None)),
        ("a number", _as(software=7)),
        ("several lines", _as(software="a\nVALID")),
        ("a line's end", _as(software="a\n")),
        ("other letters", _as(software="konsens-büro")),
        ("too long", _as(software="a" * 128)),
    ):
        world = Retold(retell=retell)
        yield name, world.bundle(OptIn(world=world).play().material), world.signer.vkey
