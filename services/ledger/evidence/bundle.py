"""The evidence bundle: what was collected about one consent, packed into one file for a court.

What is packed is first checked by the reader, with the key the log serves: a bundle that does not verify is never
handed out.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from services.ledger import record as records
from services.ledger.reader import evidence as layout
from services.ledger.reader import standalone
from services.ledger.reader.archive import pack
from services.ledger.reader.compartment import open_compartment
from services.ledger.reader.errors import Invalid
from services.ledger.reader.strict import Fields, canonical_json, encode_base64url
from services.ledger.reader.verify import Report, enclosed, verify
from shared.client import ServiceClient
from shared.errors import Refused
from shared.events import Statement, parse
from shared.secrets import Secrets
from shared.settings import Settings

_SECONDS: Final = 60
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z", re.ASCII)

README: Final = f"""\
Evidence bundle of a consent ({layout.FORMAT})
Nachweis einer Einwilligung ({layout.FORMAT})

DEUTSCH

Diese Datei zeigt, was zu einer Einwilligung aufgezeichnet wurde: welcher Text gezeigt wurde, was angekreuzt und
bestätigt wurde, die Bestätigungs-E-Mail, jede Nutzung und jeder Widerruf, und dass all das in einem fortlaufenden
Protokoll steht, dessen spätere Änderung jeder nachweisen kann, der einen früheren Stand oder eine Quittung hat.

Prüfen (ohne Internet):   consent-ledger verify DATEI --vkey SCHLUESSEL
          oder ohne alles:   python3 verify.py DATEI --vkey SCHLUESSEL     (Python ab 3.9, sonst nichts)
verify.py kommt aus dieser Datei; wer ihr nicht traut, vergleicht den SHA-256 von verify.py mit dem veröffentlichten.
Den Schlüssel des Protokolls nehmen Sie nicht aus dieser Datei, sondern aus einer Quelle, der Sie vertrauen.
Das Format beschreibt docs/formats.md, Abschnitt 18; danach lässt sich ein eigenes Prüfprogramm schreiben.

  statements/   die aufgezeichneten Aussagen, jede mit ihrem Beweis
  records/      dieselben als Einwilligungsnachweis nach ISO/IEC TS 27560 (JSON-LD)
  notices/      die Texte, die gezeigt wurden
  register/     das Verarbeitungsverzeichnis in der Fassung, auf die sich die Aussagen berufen
  opened/       was verschlüsselt war, geöffnet: die Adresse, die E-Mail (.eml lässt sich im Mailprogramm öffnen); bei
                der Bestätigung page_fetched_at: wann ihre Seite abgerufen wurde (HTTP GET, keine Handlung)
  attachments/  dasselbe verschlüsselt, wie es aufbewahrt wird
  keys.json     die Schlüssel genau dieser Teile
  effects/      wann ein Widerruf in welchem System wirkte (Angabe des Betreibers)
  timestamps/   wann ein Zeitstempeldienst frühere Stände des Protokolls gesehen hat (RFC 3161); wessen Wort das ist,
                prüft consent-ledger verify DATEI --vkey SCHLUESSEL --authority ZERTIFIKATE.pem

Was diese Datei nicht zeigt: was nach dem Stand in checkpoint.txt gesagt wurde; wer hinter der Adresse steht; dass die
Uhr des Betreibers richtig ging (begrenzt wird das nur durch timestamps/). Dass das Protokoll bis zu diesem Stand
kein späteres Wort enthält, zeigt proofs/latest.json; fehlt diese Datei, ist es nicht gezeigt. In ihr steht ein
Schlüssel, mit dem sich alle Einträge dieser Adresse im Protokoll finden lassen (nicht lesen).

Sie enthält personenbezogene Daten und in den E-Mails Links, die noch wirken: Wer sie hat, kann im Namen der Person
widerrufen, und bestätigen, solange die Anfrage offen ist. Geben Sie sie nur weiter, wo es nötig ist.

ENGLISH

This file shows what was recorded about one consent: which text was shown, what was ticked and confirmed, the
confirmation mail, each use and each withdrawal, and that all of it stands in a log that only grows: whoever has an
earlier state of it or a receipt can prove a later change.

To check (offline):       consent-ledger verify FILE --vkey KEY
  or with nothing else:   python3 verify.py FILE --vkey KEY     (Python from 3.9, nothing beside it)
verify.py comes out of this file; if you do not trust that, compare its SHA-256 with the one that is published.
Do not take the log's key from this file, but from a source you trust.
The format is described in docs/formats.md, section 18; it suffices to write a verifier of your own.

  statements/   the recorded statements, each with its proof
  records/      the same as consent records by ISO/IEC TS 27560 (JSON-LD)
  notices/      the texts that were shown
  register/     the processing register in the version that the statements name
  opened/       what was sealed, opened: the address, the mail (.eml opens in a mail program); of the confirmation,
                page_fetched_at: when its page was fetched (HTTP GET, no act)
  attachments/  the same sealed, as it is kept
  keys.json     the keys of exactly these parts
  effects/      when a withdrawal took effect in which system (by the operator's word)
  timestamps/   when a time-stamp authority saw earlier states of the log (RFC 3161); whose word that is
                is checked by consent-ledger verify FILE --vkey KEY --authority CERTIFICATES.pem

What this file does not show: what was said after the state in checkpoint.txt; who is behind the address; that the
operator's clock was right (only timestamps/ limit that). That the log has no later word up to that state is shown by
proofs/latest.json; without that file it is not shown. In it is a key with which all entries of this address can be
found in the log (not read).

It holds personal data, and in its mails links that still work: whoever has them can withdraw in the person's name,
and confirm as long as the request is open. Pass it on only where that is needed.
"""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A time-stamp authority's answer about the log at this size, from which it grew into the bundle's."""

    size: int
    root: bytes
    hashes: Sequence[bytes]
    """The consistency proof from it to the bundle's checkpoint"""
    answer: bytes

    def file(self) -> bytes:
        hashes = [encode_base64url(one) for one in self.hashes]
        said = {"root": self.root.hex(), "hashes": hashes, "answer": encode_base64url(self.answer)}
        return canonical_json(said)


@dataclass(frozen=True)
class Material:
    """All that goes into a bundle, as the services answered it."""

    purpose: str
    channel: str
    history: Mapping[str, Any]
    keys: Sequence[Mapping[str, str]]
    attachments: Mapping[str, bytes]
    registers: Mapping[str, bytes]
    notice_keys: Any
    dkim_keys: Any
    latest: Mapping[str, Any] | None = None
    """The proof of the latest word (docs/formats.md §22), under the history's checkpoint"""
    effects: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """withdrawal's statement id → what each system noted of its effect"""
    stamps: Sequence[Stamped] = ()


def files_of(material: Material) -> dict[str, bytes]:
    """The files of the bundle by name; equal material gives equal files."""
    history = material.history
    files = {
        layout.README: README.encode(),
        layout.VERIFIER: Path(standalone.__file__).read_bytes(),
        layout.CHECKPOINT: history["checkpoint"].encode(),
        layout.VKEY: f"{history['vkey']}\n".encode(),
        layout.FRESH_VKEY: f"{history['fresh_vkey']}\n".encode(),
        layout.KEYS: canonical_json(sorted(material.keys, key=lambda one: (one["statement"], one["compartment"]))),
        layout.NOTICE_KEYS: canonical_json(material.notice_keys),
        layout.DKIM_KEYS: canonical_json(material.dkim_keys),
    }
    if material.latest is not None:
        files[layout.LATEST] = canonical_json(material.latest)
    for version, raw in material.registers.items():
        files[f"register/{version}.json"] = raw
    for name, content in material.attachments.items():
        files[f"attachments/{name}"] = content
    files |= {f"timestamps/{stamp.size}.json": stamp.file() for stamp in material.stamps}
    keys = {(one["statement"], one["compartment"]): one["key"] for one in material.keys}
    for entry, statement in statements_of(history):
        index = entry["index"]
        files[f"statements/{index}.json"] = canonical_json(entry)
        snapshot = records.parse_snapshot(material.registers[statement.data.register_version])
        if statement.type in records.RECORDED_TYPES:
            files[f"records/{index}.jsonld"] = canonical_json(records.record(statement, snapshot))
        if (notice := getattr(statement.data, "notice", None)) is not None:
            files[f"notices/{notice.hash}.txt"] = _notice(snapshot, statement.data.activity, notice.hash)
        if statement.id in material.effects:
            noted = {"statement": statement.id, "systems": material.effects[statement.id]}
            files[f"effects/{index}.json"] = canonical_json(noted)
        for part in sealed_parts(statement):
            key = keys.get((statement.id, part.compartment))
            ciphertext = part.ciphertext or material.attachments.get(part.attachment)
            if key is not None and ciphertext is not None:
                name = layout.opened_name(int(index), part.compartment, part.media_type)
                files[name] = _opened(statement, part, key, ciphertext)
    files[layout.MANIFEST] = canonical_json(
        {
            "format": layout.FORMAT,
            "subject": history["subject"],
            "purpose": material.purpose,
            "channel": material.channel,
            "origin": history["origin"],
            "checkpoint_size": history["checkpoint"].split("\n", 2)[1],
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
    )
    return files


def bundle(material: Material) -> bytes:
    """The bundle as bytes; Refused if it does not verify under the key it names."""
    packed = pack(files_of(material))
    try:
        verify(packed, material.history["vkey"])
    except Invalid as error:
        message = "What the services answered does not make a bundle that verifies. Run `consent-ledger log check`."
        raise Refused("evidence-does-not-verify", message, status=500, step=error.step, why=str(error)) from None
    return packed


@dataclass(frozen=True, slots=True)
class SealedPart:
    """One compartment of a statement; an attachment's ciphertext lies elsewhere, under its hash."""

    compartment: str
    key_hash: str
    ciphertext: bytes | None = None
    attachment: str = ""
    media_type: str = ""


def sealed_parts(statement: Statement) -> Iterator[SealedPart]:
    """Every compartment of a statement."""
    for name, sealed in statement.data.sealed.items():
        ciphertext = Fields("evidence", "a compartment", {"it": sealed.ciphertext}).base64url("it")
        yield SealedPart(name, sealed.key_hash, ciphertext)
    for one in getattr(statement.data, "attachments", []):
        yield SealedPart(one.compartment, one.key_hash, attachment=one.hash, media_type=one.media_type)


def statements_of(history: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Statement]]:
    """Each entry of a history answer with its statement."""
    return [(entry, parse(Fields("history", "an entry", entry).base64url("statement"))) for entry in history["entries"]]


def _opened(statement: Statement, part: SealedPart, key: str, ciphertext: bytes) -> bytes:
    raw = Fields("evidence", "a key", {"key": key}).base64url("key")
    key_hash = bytes.fromhex(part.key_hash)
    return open_compartment("5", raw, key_hash, ciphertext, statement.subject, part.compartment, statement.id)


def _notice(snapshot: Mapping[str, Any], activity: str, notice_hash: str) -> bytes:
    for text in records.notices_of(snapshot, activity).values():
        if hashlib.sha256(text.encode()).hexdigest() == notice_hash:
            return text.encode()
    raise Refused("notice-unknown", "The register that a statement names does not have the notice it names.")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for on the command line."""

    subject: str
    purpose: str
    channel: str
    role: str
    reason: str
    language: str = "de"


async def export(settings: Settings, wanted: Wanted, output: Path) -> Report:
    """Ask the ledger for the evidence, check what it gave, and write it to `output`, readable by its owner only.

    The name's end decides the shape: `.pdf` prints it, `.html` is a page that verifies itself, all else is the bundle.
    Refused and Unavailable pass through.
    """
    if not _NAME.match(wanted.purpose) or not _NAME.match(wanted.channel):
        raise Refused("not-a-purpose", "Name the purpose as PURPOSE/CHANNEL, for example newsletter/email.")
    ending = output.suffix.removeprefix(".").lower()
    asked = {**asdict(wanted), "shape": ending if ending in {"pdf", "html"} else "zip"}
    ledger = ServiceClient(settings.ledger_url, Secrets(settings.secrets_dir).credential("compliance"), "ledger")
    try:
        content = (await ledger.post("/ledger/evidence", json=asked, timeout=_SECONDS)).body
    finally:
        await ledger.close()
    try:
        report = verify(enclosed(content), None)
    except Invalid as error:
        raise Refused(
            "evidence-does-not-verify", "The ledger gave a file that does not verify.", why=str(error)
        ) from None
    if report is None:
        raise Refused("evidence-does-not-verify", "The ledger gave a file that is no evidence.")
    write(output, content)
    return report


def write(output: Path, packed: bytes) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(packed)
        beside.replace(output)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise Refused("cannot-write", f"The bundle could not be written: {error.strerror}.") from None
