"""`consent-ledger proof`: asks the ledger for a proof, checks it by the reader, and hands over only what verifies."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from services.ledger.evidence.bundle import write
from services.ledger.reader.errors import Invalid
from services.ledger.reader.facts import Facts, contradictions
from services.ledger.reader.strict import canonical_json
from services.ledger.reader.verify import Report, kind_of, verify
from shared.client import ServiceClient
from shared.errors import Refused
from shared.secrets import Secrets
from shared.settings import Settings

_SECONDS: Final = 30
_NOT_FOUND: Final = 404
_KEPT_LIMIT: Final = 256 * 1024 * 1024


async def of_subject(settings: Settings, kind: str, subject: str, matter: str, at: str | None = None) -> bytes:
    """A proof about a subject, with the compliance credential; Refused if it cannot be had or does not verify."""
    purpose, slash, channel = matter.partition("/")
    if not slash:
        raise Refused("not-a-purpose", "Name the purpose as PURPOSE/CHANNEL, for example newsletter/email.")
    asked = {"purpose": purpose, "channel": channel} | ({} if at is None else {"at": at})
    credential = Secrets(settings.secrets_dir).credential("compliance")
    answer = await _ask(settings.ledger_url, credential, f"/ledger/subjects/{subject}/proofs/{kind}", asked)
    checked(answer)
    return answer


async def consistency(settings: Settings, kept: Path, vkey: Path | None, url: str | None) -> bytes:
    """A proof that the log of today begins with what a kept file saw of it; Refused, in plain words, if it does not.

    Anyone may ask: it needs no credential.
    """
    facts = _kept(kept, vkey)
    seen = max(facts.checkpoints, key=lambda one: one.size)
    shard = facts.origin.rpartition("/")[2]
    # Only what checks itself is believed, so whatever answers there may.
    try:
        answer = await _ask(
            url or settings.ledger_url, "", f"/ledger/log/{shard}/proofs/consistency", {"old": str(seen.size)}
        )
    except Refused as error:
        if error.status != _NOT_FOUND:
            raise
        message = (
            f"The log does not know a checkpoint of {seen.size} leaves, and yet {kept.name} holds one that its key has "
            "signed: it was rolled back, or this is another log. Keep the file."
        )
        raise Refused("checkpoint-denied", message) from None
    report = checked(answer)
    found = contradictions(facts.with_those_of(report.facts))
    if facts.origin != report.facts.origin:
        message = f"The log there is {report.facts.origin}, not {facts.origin}, which {kept.name} speaks of."
        raise Refused("another-log", message)
    if found:
        raise Refused("fraud", f"What the log says now and {kept.name} cannot both be true: {'; '.join(found)}")
    return answer


def _kept(path: Path, vkey: Path | None) -> Facts:
    """What a file that somebody kept says about the log."""
    try:
        with path.open("rb") as opened:
            data = opened.read(_KEPT_LIMIT)
        key = None if vkey is None else vkey.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Refused("cannot-read", f"The file could not be read: {why}.") from None
    try:
        report = verify(data, key)
    except Invalid as error:
        raise Refused("kept-file-invalid", f"{path.name} is an invalid {kind_of(data)}: {error}") from None
    if report is None:
        message = f"{path.name} is no receipt, bundle, proof or checkpoint, so it holds no earlier state of a log."
        raise Refused("not-ours", message)
    return report.facts


def checked(answer: bytes) -> Report:
    """What an answered proof shows; Refused if it does not verify under the key it names."""
    try:
        report = verify(answer, None)
    except Invalid as error:
        message = "The ledger answered a proof that does not verify. Keep it away, and run `consent-ledger log check`."
        raise Refused("proof-does-not-verify", f"{message} ({error})", step=error.step) from None
    if report is None or report.kind != "proof":
        raise Refused("proof-does-not-verify", "The ledger answered something that is no proof.")
    return report


def hand_over(answer: bytes, output: Path | None) -> str:
    """Write the proof to a file that only its owner can read, or to standard output; what it shows."""
    report = checked(answer)
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(canonical_json(json.loads(answer)))
        sys.stdout.buffer.flush()
    else:
        write(output, canonical_json(json.loads(answer)))
    return report.conclusion


async def _ask(url: str, credential: str, path: str, params: Mapping[str, Any]) -> bytes:
    client = ServiceClient(url, credential, "ledger")
    try:
        return (await client.get(path, params=params, timeout=_SECONDS)).body
    finally:
        await client.close()
