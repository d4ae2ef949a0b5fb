"""The `consent-ledger` command: run services, bring Kafka and PostgreSQL to the wanted state, check and export.

Exit codes: 0 as wished, 1 it is not (an invalid proof, a wrong row, a refusal), 2 the call or the file makes no sense.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from shared.errors import Corrupt, Refused, Unavailable
from shared.identifiers import is_subject
from shared.settings import Settings

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
log = typer.Typer(no_args_is_help=True, help="Create, check and test the log.")
proof = typer.Typer(
    no_args_is_help=True,
    help="Proofs to keep: each is checked before it is handed over, to -o FILE or to standard output.",
)
rejected = typer.Typer(no_args_is_help=True, help="What could not be recorded.")
incidents = typer.Typer(no_args_is_help=True, help="What a person should look at.")
register = typer.Typer(no_args_is_help=True, help="The processing register.")
secrets = typer.Typer(no_args_is_help=True, help="The secrets of an installation.")
witness = typer.Typer(
    no_args_is_help=True,
    help="A witness (C2SP tlog-witness) for other people's logs. It needs a folder, and no installation.",
)
app.add_typer(log, name="log")
app.add_typer(proof, name="proof")
app.add_typer(rejected, name="rejected")
app.add_typer(incidents, name="incidents")
app.add_typer(register, name="register")
app.add_typer(secrets, name="secrets")
app.add_typer(witness, name="witness")


def _progress(text: str) -> None:
    """A line that long work overwrites on a terminal, and plain lines in a pipe's standard error."""
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"  {text}", end=end, file=sys.stderr, flush=True)


def _with_superuser(settings: Settings) -> Settings:
    """Refuses an empty address: the driver would take it for whatever PostgreSQL this machine has."""
    if not settings.superuser_dsn:
        raise Refused("setting-missing", "Set CONSENT_LEDGER_SUPERUSER_DSN to the address of a superuser.")
    return settings


@app.command()
def serve(
    services: Annotated[list[str] | None, typer.Argument(help="Which; all if none is named.")] = None,
    lifeline: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run some or all services until a signal comes."""
    from services import serve as serving

    raise typer.Exit(serving.main(services or [], lifeline))


@app.command()
def version(
    files: Annotated[bool, typer.Option(help="List the hash of each file, too, as sha256sum prints it.")] = False,
) -> None:
    """What software this is, as every statement that it makes names it: a version, and a hash of all its files.

    To make the hash again, in a checkout, where a wheel is unpacked, or in /app of the image:

    find services shared -type f ! -path '*/__pycache__/*' | LC_ALL=C sort | xargs sha256sum | sha256sum
    """
    from shared.software import listing, software

    print(software())
    if files:
        print(listing().decode(), end="")


@app.command()
def migrate() -> None:
    """Bring PostgreSQL to the wanted state (roles, schemas, tables). Needs CONSENT_LEDGER_SUPERUSER_DSN.

    A role with a file database-<role> in CONSENT_LEDGER_SECRETS_DIR is given the password in it.
    """
    from shared import migrations

    settings = _with_superuser(Settings())
    files = {role: settings.secrets_dir / f"database-{role}" for role in migrations.roles()}
    passwords = {role: file.read_text("utf-8").strip() for role, file in files.items() if file.is_file()}
    asyncio.run(migrations.migrate(settings.superuser_dsn, passwords))


@app.command()
def topics() -> None:
    """Bring Kafka to the wanted state: the topics; with a file kafka-admin among the secrets, users and rights too.

    A user with a file kafka-<user> in CONSENT_LEDGER_SECRETS_DIR is given the password in it.
    """
    from shared import kafka_users
    from shared.register import load
    from shared.topics import ensure_topics

    settings = Settings()
    login, prefix, sources = (
        settings.kafka_login(kafka_users.ADMIN),
        settings.topic_prefix,
        load(settings.register_dir).sources,
    )

    async def bring() -> None:
        await ensure_topics(settings.kafka, prefix, settings.shards, login=login)
        if login.user:
            known = kafka_users.passwords(settings.secrets_dir, kafka_users.users(sources))
            await kafka_users.ensure_users(settings.kafka, login, prefix, sources, known, os.urandom)

    asyncio.run(bring())


@secrets.command("create")
def secrets_create() -> None:
    """Make the secrets that are missing in CONSENT_LEDGER_SECRETS_DIR; none is ever overwritten."""
    from shared.access import grants
    from shared.register import load
    from shared.secrets import Secrets, create_secrets

    settings = Settings()
    callers = {*grants(), *Secrets(settings.secrets_dir).grants()}
    sources = load(settings.register_dir).sources
    create_secrets(settings.secrets_dir, os.urandom, sources, callers, settings.shards)


@secrets.command("keks")
def secrets_keks(owner: Annotated[str, typer.Argument(help="ledger or subjects")]) -> None:
    """How many subjects' keys hang on each key-encryption key, as JSON. One on which none hangs can be taken away."""
    from shared.kek_rotation import hanging

    print(json.dumps(asyncio.run(hanging(Settings(), _owner(owner)))))


@secrets.command("rotate-kek")
def secrets_rotate_kek(owner: Annotated[str, typer.Argument(help="ledger or subjects")]) -> None:
    """Make a new key-encryption key, wait until every living key hangs on it, destroy the older ones.

    From then on who was erased before is erased in every backup. Needs the running services, and the folder of the
    secrets as they see it; where secrets are mounted one by one, see docs/operating.md.
    """
    from shared.kek_rotation import rotate

    destroyed = asyncio.run(rotate(Settings(), _owner(owner), os.urandom, _progress))
    print(f"destroyed: {', '.join(destroyed)}")


def _owner(name: str) -> Literal["ledger", "subjects"]:
    if name not in {"ledger", "subjects"}:
        raise Refused("unknown-owner", "Key-encryption keys belong to `ledger` or to `subjects`.")
    return "ledger" if name == "ledger" else "subjects"


@log.command("create")
def log_create(shard: Annotated[int, typer.Option(help="Which shard.")] = 0) -> None:
    """Create a log: its first leaf, its first checkpoint, the signer's files. Logs are never made implicitly.

    Needs CONSENT_LEDGER_SUPERUSER_DSN.
    """
    from services.ledger.procedures.create import create_log

    asyncio.run(create_log(_with_superuser(Settings()), shard))


@log.command("rotate-key")
def log_rotate_key(shard: Annotated[int, typer.Option(help="Which shard.")] = 0) -> None:
    """Make another key of a log, and print all its keys for those who verify. It signs beside the old one from the
    next start of ledger-seal, which must be given the new file.

    Needs CONSENT_LEDGER_SUPERUSER_DSN, and the secrets of the signer.
    """
    from services.ledger.procedures.rotate import rotate_key

    done = asyncio.run(rotate_key(_with_superuser(Settings()), shard))
    print(done.keys, end="")
    print(f"key {done.number} is log-{shard}.{done.number} in the folder of the secrets", file=sys.stderr)


@log.command("retire-key")
def log_retire_key(
    number: Annotated[int, typer.Argument(help="Which key, counted from 1.")],
    shard: Annotated[int, typer.Option(help="Which shard.")] = 0,
) -> None:
    """Let a key of a log sign no more, once another one does. What it has signed verifies for ever.

    Restart ledger-seal at once, then destroy the file of the key. Needs CONSENT_LEDGER_SUPERUSER_DSN.
    """
    from services.ledger.procedures.rotate import retire_key

    print(asyncio.run(retire_key(_with_superuser(Settings()), shard, number)).keys, end="")


@log.command("check")
def log_check(shard: Annotated[int | None, typer.Option(help="Only this shard.")] = None) -> None:
    """Re-verify everything stored by the reader alone, and name the first wrong row."""
    from services.ledger.procedures import log_check as check

    raise typer.Exit(asyncio.run(check.main(Settings(), shard, _progress)))


@log.command("drop-tail")
def log_drop_tail(
    by: Annotated[str, typer.Option(help="Who does it.")],
    reason: Annotated[str, typer.Option(help="Why, in one sentence.")],
    shard: Annotated[int, typer.Option(help="Which shard.")] = 0,
    keep: Annotated[int | None, typer.Option(help="Do it: how many leaves are sealed, and stay.")] = None,
) -> None:
    """Take out of a log that the signer has stopped what lies above the sealed size. Without --keep: say what would go.

    What had been accepted comes again from Kafka and the outboxes. Run it where the signer's files and the
    key-encryption keys are, with ledger-append and ledger-seal stopped. Needs CONSENT_LEDGER_SUPERUSER_DSN.
    """
    from services.ledger.procedures.tail import drop_tail

    print(asyncio.run(drop_tail(_with_superuser(Settings()), shard, by, reason, keep)))


@log.command("audit")
def log_audit(
    url: Annotated[str, typer.Argument(help="Where the log is served: https://example.org/ledger/log/0")],
    vkey: Annotated[
        Path | None, typer.Option(help="File with the log's verifier key (or keys, see vkeys), obtained independently.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="tlog-policy file: which witnesses, and how many of them must have cosigned.")
    ] = None,
    position: Annotated[
        Path | None, typer.Option(help="File that remembers how far the audit came, and what the log has signed.")
    ] = None,
    cosign_key: Annotated[
        Path | None, typer.Option(help="File of an Ed25519 key in hex: cosign what was audited (C2SP, v1).")
    ] = None,
    cosign_as: Annotated[str, typer.Option(help="Name of that key: an address without scheme.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Replay a log over HTTP as an outsider: tree, state map, every tile, every checkpoint.

    Exit status: 0 all of it holds under the given key; 1 something is wrong, or no key was given; 2 not done.
    """
    from services.ledger.procedures import audit

    if (cosign_key is None) != (not cosign_as) or (cosign_key is not None and position is None):
        raise typer.BadParameter("To cosign, give --cosign-key, --cosign-as and --position: what was cosigned is kept.")
    try:
        request = audit.Request(
            audit.log_address(url),
            audit.read_trusted(vkey, policy),
            position,
            None if cosign_key is None else audit.cosigner(cosign_as, cosign_key),
        )
    except (Refused, OSError) as error:
        reason = error.message if isinstance(error, Refused) else f"{error.filename}: {error.strerror}"
        print(f"consent-ledger: {reason}", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(audit.main(request, _progress, as_json=as_json))


@log.command("restore")
def log_restore(
    by: Annotated[str, typer.Option(help="Who does it.")],
    reason: Annotated[str, typer.Option(help="Why, in one sentence.")],
    shard: Annotated[int, typer.Option(help="Which shard.")] = 0,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Take the leaves from a mirror of the log, if it has more.")
    ] = None,
    outboxes: Annotated[
        list[str] | None,
        typer.Option(
            "--outboxes",
            metavar="DATABASE",
            help="Read the outboxes in this database, too (postgresql://…; may be repeated): of services that have"
            " their own.",
        ),
    ] = None,
) -> None:
    """After PostgreSQL was restored from an older backup: bring a log to the last size that was signed, and its
    statements back from Kafka and the outboxes; what no longer can be had is listed.

    Run it where the signer's files and keys and the key-encryption keys are, with all services stopped. Needs
    CONSENT_LEDGER_SUPERUSER_DSN.
    """
    from services.ledger.procedures.restore import restore

    print(asyncio.run(restore(_with_superuser(Settings()), shard, by, reason, mirror, _progress, outboxes or ())))


@log.command("vectors")
def log_vectors(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="JSON of RFC 9162 proof cases, see docs/formats.md.")
    ],
) -> None:
    """Run proof cases through our verifier; exit 1 on any disagreement."""
    from services.ledger.reader.errors import Invalid
    from services.ledger.reader.vectors import run_vectors

    try:
        result = run_vectors(file)
    except Invalid as error:
        print(f"consent-ledger: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(result)
    raise typer.Exit(1 if result.disagreements else 0)


def _subject(text: str) -> str:
    if not is_subject(text):
        raise typer.BadParameter("a subject's id looks like 0.01a2008d-7400-7c03-8f7d-bf8c9871f50f; a receipt shows it")
    return text


def _subject_or_address(text: str) -> str:
    return text if "@" in text else _subject(text)


Subject = Annotated[str, typer.Argument(help="The subject's id, as a receipt shows it.", callback=_subject)]
Matter = Annotated[str, typer.Argument(metavar="PURPOSE/CHANNEL", help="For example newsletter/email.")]


@app.command()
def evidence(
    subject: Subject,
    matter: Matter,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="FILE.pdf to print, FILE.html checks itself, any other name is the ZIP."),
    ],
    role: Annotated[str, typer.Option(help="In which role of the register you ask; recorded.")] = "compliance",
    reason: Annotated[str, typer.Option(help="Why; kept, and committed to in the log.")] = "evidence export",
    language: Annotated[Literal["de", "en"], typer.Option(help="Of PDF and page.")] = "de",
) -> None:
    """Export the evidence of one consent as one file: a canonical ZIP that `verify` checks offline, or with it inside
    a document to print or a page. That you asked, in which role and why, is recorded before you get it."""
    from services.ledger.evidence.bundle import Wanted, export

    purpose, _, channel = matter.partition("/")
    try:
        report = asyncio.run(export(Settings(), Wanted(subject, purpose, channel, role, reason, language), output))
    except Refused as error:
        print(f"consent-ledger: {error.message} ({error.code})", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"{output}: {report.conclusion}")


Output = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write it; else standard output.")]


def _prove(kind: str, subject: str, matter: str, output: Path | None, at: str | None = None) -> None:
    from services.ledger.procedures import proof_export

    made = asyncio.run(proof_export.of_subject(Settings(), kind, subject, matter, at))
    print(proof_export.hand_over(made, output), file=sys.stderr)


@proof.command("latest")
def proof_latest(subject: Subject, matter: Matter, output: Output = None) -> None:
    """The newest word on a purpose and on everything: does consent hold, by the log's newest state?"""
    _prove("latest", subject, matter, output)


@proof.command("absence")
def proof_absence(subject: Subject, matter: Matter, output: Output = None) -> None:
    """Nothing was ever recorded about this purpose and channel of this subject."""
    _prove("absence", subject, matter, output)


@proof.command("history")
def proof_history(subject: Subject, matter: Matter, output: Output = None) -> None:
    """Every word on a purpose and on everything, from the first to the newest, none left out."""
    _prove("history", subject, matter, output)


@proof.command("state")
def proof_state(
    subject: Subject,
    matter: Matter,
    at: Annotated[str, typer.Option(help="The moment, with its offset from UTC: 2026-11-22T12:00:00Z.")],
    output: Output = None,
) -> None:
    """Which words were in force at a past moment."""
    _prove("state", subject, matter, output, at)


@proof.command("consistency")
def proof_consistency(
    kept: Annotated[Path, typer.Argument(help="A receipt, bundle, proof or checkpoint that you kept.")],
    output: Output = None,
    vkey: Annotated[Path | None, typer.Option(help="The log's verifier key; a bare checkpoint needs it.")] = None,
    url: Annotated[str | None, typer.Option(help="Where the log is served; else as the settings say.")] = None,
) -> None:
    """The log of today begins with what your file saw of it: nothing was changed or taken away since."""
    from services.ledger.procedures import proof_export

    made = asyncio.run(proof_export.consistency(Settings(), kept, vkey, url))
    print(proof_export.hand_over(made, output), file=sys.stderr)


@app.command()
def erase(
    whom: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT|ADDRESS",
            help="The subject's id, as a receipt shows it; or an address.",
            callback=_subject_or_address,
        ),
    ],
    reason: Annotated[
        Literal["no-longer-needed", "consent-withdrawn", "objection", "unlawful", "legal-obligation"],
        typer.Option(
            metavar="WHY",
            help="no-longer-needed, consent-withdrawn, objection, unlawful or legal-obligation (Art. 17(1)).",
        ),
    ],
    by: Annotated[
        Literal["person", "staff", "representative", "controller"],
        typer.Option(metavar="WHO", help="On whose word: person, staff, representative, controller."),
    ] = "person",
    wait: Annotated[float, typer.Option(help="Seconds to wait until every holder is done.")] = 30.0,
) -> None:
    """Order that a subject is erased everywhere, and say how far it is. What was proven of it stays proven.

    Ordered again it is the same order. Exit status 0 once every holder is done, 1 while one is not.
    """
    from services.erasure.command import erase as order

    done = asyncio.run(order(Settings(), whom, reason, by, wait, _progress))
    print(json.dumps(done))
    raise typer.Exit(0 if done["state"] == "completed" else 1)


@app.command()
def hold(
    request: Annotated[str, typer.Argument(help="The order's id, as `erase` says it.")],
    until: Annotated[str, typer.Option(help="Until when at least, as 2031-12-31T23:00:00.000Z.")],
    ground: Annotated[str, typer.Option(help="legal-claims or legal-obligation (Art. 17(3)).")] = "legal-claims",
) -> None:
    """Hold the proof about an erased person longer than the register asks for, say for a lawsuit. It is recorded."""
    from services.erasure.command import hold as order

    print(json.dumps(asyncio.run(order(Settings(), request, until, ground))))


@app.command()
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="A receipt, proof or timestamp (JSON), an evidence bundle (ZIP), a checkpoint, an acceptance."
        ),
    ],
    other: Annotated[
        Path | None, typer.Argument(help="A second one: is there anything in which both cannot be true?")
    ] = None,
    vkey: Annotated[
        Path | None,
        typer.Option(
            help="File with the log's verifier key (or keys, see vkeys), and its fresh key on a line of its own: "
            "obtained independently."
        ),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="tlog-policy file: which logs, which witnesses, how many must have cosigned.")
    ] = None,
    authority: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) of the authority whose timestamps you believe.")
    ] = None,
    notice_keys: Annotated[
        Path | None, typer.Option(help="JSON Web Key Set of a collector, to check a signed acceptance with.")
    ] = None,
) -> None:
    """Verify a file offline, step by step; or two files, and what they give away about whoever keeps the log.

    Exit 0: valid (two files: no contradiction). 1: invalid, or fraud, or the key was not given. 2: none of our files.
    """
    from services.ledger.reader.verify import main as verify_main

    raise typer.Exit(verify_main(file, vkey, policy, other, authority, notice_keys))


@witness.command("create")
def witness_create(
    folder: Annotated[Path, typer.Argument(help="Where it keeps its key and what it has seen; in no shared backup.")],
    name: Annotated[
        str, typer.Option(help="Under which it cosigns, for ever: a host name of yours, example.org/witness.")
    ],
) -> None:
    """Begin a witness with a key of its own, and print its verifier key: give it to those whose logs it is to watch."""
    from services.witness.main import create

    print(create(folder, name))


@witness.command("trust")
def witness_trust(
    folder: Annotated[Path, typer.Argument(help="The witness's folder.")],
    vkey: Annotated[str, typer.Argument(help="A log's verifier key, as GET /ledger/log/0/vkey gives it.")],
) -> None:
    """Watch a log; or take another key of a log that is watched, when it changes its key. Then restart the witness."""
    from services.witness.memory import Memory

    print(f"watching {Memory.trust(folder, vkey)}")


@witness.command("serve")
def witness_serve(
    folder: Annotated[Path, typer.Argument(help="The witness's folder.")],
    host: Annotated[str, typer.Option(help="Address to listen at; TLS ends in front of it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes any free one and logs it.")] = 8090,
) -> None:
    """Answer POST /add-checkpoint and GET /<SHA-256 of an origin>/checkpoint until a signal comes."""
    from services.witness.main import serve as serve_witness

    raise typer.Exit(serve_witness(folder, host, port, "INFO"))


@rejected.command("list")
def rejected_list() -> None:
    """What could not be recorded, with the reason of each, as JSON lines."""
    from services.ledger.procedures.rejects import rejected_rows

    for row in asyncio.run(rejected_rows(Settings())):
        print(json.dumps(row))


@rejected.command("handle")
def rejected_handle(
    number: Annotated[int, typer.Argument(help="The row's number, as `rejected list` shows it.")],
    by: Annotated[str, typer.Option(help="Who has dealt with it.")],
    reason: Annotated[str, typer.Option(help="What was done, in one sentence.")],
) -> None:
    """Note who has dealt with a reject, and how. The row stays; it no longer keeps the ledger from being ready."""
    from services.ledger.procedures.rejects import handle

    asyncio.run(handle(Settings(), number, by, reason))


@rejected.command("replay")
def rejected_replay(
    numbers: Annotated[list[int], typer.Argument(help="The rows' numbers, as `rejected list` shows them.")],
    by: Annotated[str, typer.Option(help="Who plays them again.")],
    reason: Annotated[str, typer.Option(help="What was mended, in one sentence.")],
) -> None:
    """Play rejected statements again, oldest first, once the cause is mended. Each row is handled when it is sealed.

    They pass the checks of every statement, and are recorded once however often they are played. Run it where the
    sources' keys are; ledger-append must have been restarted if the register was what was mended.
    """
    from services.ledger.procedures.rejects import replay

    for number in sorted(numbers):
        print(f"{number}: {asyncio.run(replay(Settings(), number, by, reason))}")


@incidents.command("list")
def incidents_list() -> None:
    """Every open incident, as JSON lines."""
    from services.ledger.procedures.rejects import open_incidents

    for row in asyncio.run(open_incidents(Settings())):
        print(json.dumps(row))


@incidents.command("close")
def incidents_close(
    number: Annotated[int, typer.Argument(help="The incident's number, as `incidents list` shows it.")],
    by: Annotated[str, typer.Option(help="Who closes it.")],
    reason: Annotated[str, typer.Option(help="Why, in one sentence.")],
) -> None:
    """Close an incident in the name of a person. Closing a gap counts what is missing as arrived."""
    from services.ledger.procedures.rejects import close_incident

    asyncio.run(close_incident(Settings(), number, by, reason))


@register.command("show")
def register_show() -> None:
    """The register as text for people."""
    from shared.register import load, show

    print(show(load(Settings().register_dir)))


@register.command("lint")
def register_lint() -> None:
    """Report contradictions in the register; exit 1 if one of them needs a decision (`warning`), not for a `note`."""
    from shared.register import lint, load

    findings = lint(load(Settings().register_dir))
    for finding in findings:
        print(finding)
    raise typer.Exit(1 if any(finding.level == "warning" for finding in findings) else 0)


@register.command("export")
def register_export() -> None:
    """The register as canonical JSON; its SHA-256 is the version that statements carry."""
    from shared.register import load

    sys.stdout.buffer.write(load(Settings().register_dir).snapshot() + b"\n")


def main() -> Any:
    """Run the command; the three errors become one line each and an exit code."""
    try:
        return app()
    except ValidationError as error:
        if error.title != Settings.__name__:
            raise
        for wrong in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in wrong["loc"]).upper()
            print(f"consent-ledger: CONSENT_LEDGER_{name}: {wrong['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
    except Refused as error:
        print(f"consent-ledger: {error.message}", file=sys.stderr)
        raise SystemExit(1) from None
    except Unavailable as error:
        print(f"consent-ledger: {error} is not reachable; try again when it is.", file=sys.stderr)
        raise SystemExit(1) from None
    except Corrupt as error:
        print(f"consent-ledger: {error}", file=sys.stderr)
        raise SystemExit(1) from None
