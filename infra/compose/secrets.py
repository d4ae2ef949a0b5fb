"""Makes the files that docker-compose.yml mounts: keys, credentials and passwords, what is missing of them.

python -m infra.compose.secrets [FOLDER]      FOLDER: CONSENT_LEDGER_FOLDER, or .local/compose in the checkout

Where FOLDER is the checkout's, `.env` beside docker-compose.yml then says as whom the containers run: as the owner of
these files, who alone can read them. Run by root it gives them to an ordinary user.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from infra import kafka_rights
from shared import kafka_users, register
from shared.access import grants
from shared.migrations import roles
from shared.secrets import create_secrets

SUPERUSER: Final = "postgres"
CHECKOUT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = CHECKOUT / ".local" / "compose"
ORDINARY: Final = 1000  # user and group, where root makes the files
PARTS: Final = ("secrets", "signer", "evidence")
FROM_OTHERS: Final = (
    "evidence-key.pem",
    "evidence-certificates.pem",
    "witness-policy",
    "timestamp-authority.pem",
)
"""What is mounted like a secret and nobody can make here; empty, as long as the installation has none."""


def create(folder: Path, shards: int = 1) -> Path:
    """Make the parts below the folder; nothing that exists is changed. Gives the secrets' folder."""
    for part in PARTS:
        (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    secrets, sources = folder / "secrets", register.load().sources
    create_secrets(
        secrets,
        os.urandom,
        sources,
        grants(),
        shards,
        [*roles(), SUPERUSER],
        [*kafka_users.users(sources), kafka_users.ADMIN, kafka_rights.BROKER],
    )

    for name in FROM_OTHERS:
        (secrets / name).touch(mode=0o600)

    def word(name: str) -> str:
        return (secrets / name).read_text("ascii").strip()

    # PostgreSQL's clients read passwords in this form, and only from a file that nobody else can read.
    _replace(secrets / f"{SUPERUSER}.pgpass", f"*:*:*:{SUPERUSER}:{word(f'database-{SUPERUSER}')}\n")
    users = kafka_rights.secret(word(f"kafka-{kafka_rights.BROKER}"), word(f"kafka-{kafka_users.ADMIN}"))
    _replace(secrets / "kafka.properties", "".join(f"{name}={value}\n" for name, value in users.items()))
    return secrets


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    draft.touch(mode=0o600)
    draft.write_text(text, "ascii")
    draft.replace(path)


def own(folder: Path) -> tuple[int, int]:
    """User and group who own the files; if that would be root, they are given to an ordinary user."""
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    for path in (folder, *(path for part in PARTS for path in (folder / part, *(folder / part).rglob("*")))):
        os.chown(path, ORDINARY, ORDINARY)
    return ORDINARY, ORDINARY


def main() -> None:
    """Make them where the compose file looks for them."""
    named = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CONSENT_LEDGER_FOLDER")
    folder = Path(named) if named else FOLDER
    secrets, (user, group) = create(folder), own(folder)
    if folder == FOLDER:
        environment = CHECKOUT / ".env"
        if not environment.exists():
            environment.write_text(f"CONSENT_LEDGER_UID={user}\nCONSENT_LEDGER_GID={group}\n", "ascii")
    print(f"secrets are in {secrets}; containers run as CONSENT_LEDGER_UID={user} CONSENT_LEDGER_GID={group}")


if __name__ == "__main__":
    main()
