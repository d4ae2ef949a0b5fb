"""A witness that we did not write cosigns our running log, and a verifier we did not write checks the outcome.

The witness is Torchwood's litewitness, with its key in a real ssh-agent; the verifier is a few lines around Torchwood's
policies and tlog-proofs. `make test-clients` builds both with pinned modules.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sqlite3
import subprocess
from contextlib import ExitStack, closing
from hashlib import sha256
from subprocess import DEVNULL, Popen
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from infra.local.browser import Browser
from infra.local.installation import free_port
from infra.local.screen import Screen, until
from infra.local.story import Story
from services.ledger.reader.errors import Invalid
from services.ledger.reader.merkle import EMPTY_ROOT
from services.ledger.reader.note import CosignatureSigner
from services.ledger.reader.policy import Policy, parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from infra.local.installation import Installation

NAME = "litewitness.example/w1"
RECEIPT = re.compile(r"https?://\S+/ledger/receipts/[^\s\"<>]+")


def fingerprint(key: Ed25519PrivateKey) -> str:
    """OpenSSH's name of a key."""
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split()[1]
    return "SHA256:" + base64.b64encode(sha256(base64.b64decode(line)).digest()).decode().rstrip("=")


@pytest.fixture(scope="module")
def policy(clients: Path, installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The policy of an installation that litewitness watches; the signer was restarted with it."""
    folder = tmp_path_factory.mktemp("litewitness")
    if shutil.which("ssh-agent") is None:
        pytest.fail("litewitness keeps its key in an ssh-agent; on Debian: apt-get install openssh-client")
    key = Ed25519PrivateKey.generate()
    (folder / "key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / "key").chmod(0o600)
    vkey = fetched(installation, "vkey").decode().strip()
    port = free_port()
    socket = str(folder / "agent")
    with ExitStack() as running, (folder / "log").open("wb") as log:
        agent = running.enter_context(Popen(["ssh-agent", "-D", "-a", socket], stdout=DEVNULL))
        running.callback(agent.terminate)
        until("the agent", (folder / "agent").exists)
        subprocess.run(["ssh-add", "-q", folder / "key"], env={"SSH_AUTH_SOCK": socket}, check=True)
        command = [clients / "litewitness", "-name", NAME, "-key", fingerprint(key), "-ssh-agent", socket]
        witness = running.enter_context(
            Popen([*command, "-db", folder / "db", "-listen", f"127.0.0.1:{port}"], stderr=log)
        )
        running.callback(witness.terminate)
        until("the witness", lambda: b"listening" in (folder / "log").read_bytes())
        with closing(sqlite3.connect(folder / "db")) as db:
            empty = base64.b64encode(EMPTY_ROOT).decode()
            origin = vkey.partition("+")[0]
            db.execute("insert into log (origin, tree_size, tree_hash) values (?, 0, ?)", (origin, empty))
            db.execute("insert into key (origin, key) values (?, ?)", (origin, vkey))
            db.commit()
        file = folder / "policy"
        theirs = CosignatureSigner(NAME, key).vkey
        file.write_text(f"log {vkey}\nwitness lite {theirs} http://127.0.0.1:{port}\nquorum lite\n")
        installation._extra["witness_policy"] = str(file)
        installation.processes["ledger-seal"].stop()
        installation.serve(["ledger-seal"])
        yield file


def fetched(installation: Installation, name: str) -> bytes:
    return Browser("en").get(f"{installation.base_url}/ledger/log/0/{name}").body


def verifies(clients: Path, *files: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([clients / "verifyproof", *files], capture_output=True, text=True, timeout=60, check=False)


def test_a_witness_we_did_not_write_cosigns_the_growing_log_and_its_verifier_accepts_our_proof(
    clients: Path, policy: Path, installation: Installation, tmp_path: Path
) -> None:
    known = parse_policy(policy.read_bytes())
    story = Story(installation, Screen(io.StringIO()))
    sizes = set()
    for number in range(3):
        story.subscribe(f"witnessed-{number}@example.org")
        newest = int(fetched(installation, "checkpoint").split(b"\n")[1])
        until("a cosigned checkpoint", lambda least=newest: size(known, installation) >= least)  # type: ignore[misc]
        sizes.add(size(known, installation))
    assert len(sizes) == 3

    _, message, _ = story.mail("witnessed-2@example.org", 2)
    body = message.get_body(("plain",))
    assert body is not None
    [link] = set(RECEIPT.findall(body.get_content()))
    found: dict[str, str] = {}

    def is_cosigned() -> bool:
        found.update(json.loads(Browser("en").get(link, Accept="application/json").body))
        return NAME in found["proof"]

    until("a receipt under a cosigned checkpoint", is_cosigned)
    receipt, leaf, proof = tmp_path / "receipt.json", tmp_path / "leaf", tmp_path / "proof"
    receipt.write_text(json.dumps(found))
    leaf.write_bytes(base64.urlsafe_b64decode(found["leaf"] + "=="))
    proof.write_text(found["proof"])
    assert verifies(clients, policy, leaf, proof).stdout == "valid\n"
    said = installation.command("verify", str(receipt), "--policy", str(policy))
    assert "cosigned by lite at" in said

    # And both refuse what nobody cosigned, and another leaf.
    bare = tmp_path / "bare"
    bare.write_text("".join(line for line in found["proof"].splitlines(keepends=True) if NAME not in line))
    assert verifies(clients, policy, leaf, bare).returncode == 1
    leaf.write_bytes(leaf.read_bytes() + b"\0")
    assert verifies(clients, policy, leaf, proof).returncode == 1


def size(known: Policy, installation: Installation) -> int:
    """How far the witness has cosigned, by our own reading; 0 if it has not."""
    try:
        return known.verify(fetched(installation, "cosigned")).checkpoint.size
    except Invalid:
        return 0


def test_fsck_accepts_a_log_whose_checkpoint_bears_cosignatures(
    clients: Path, policy: Path, installation: Installation, tmp_path: Path
) -> None:
    known = parse_policy(policy.read_bytes())
    until("a cosigned checkpoint", lambda: size(known, installation) > 0)
    key = tmp_path / "vkey"
    key.write_bytes(fetched(installation, "vkey"))
    command = [
        clients / "fsck",
        "-storage_url",
        f"{installation.base_url}/ledger/log/0/",
        "-public_key",
        key,
        "-ui=false",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
