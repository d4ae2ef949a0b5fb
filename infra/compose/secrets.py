"""Makes the files that docker-compose.yml mounts: keys, credentials and passwords, what is missing of them.

python -m infra.compose.secrets [FOLDER]      FOLDER: CONSENT_LEDGER_FOLDER, or .local/compose in the checkout
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from shared import register
from shared.access import grants
from shared.migrations import roles
from shared.secrets import create_secrets

SUPERUSER: Final = "postgres"
FOLDER: Final = Path(__file__).resolve().parents[2] / ".local" / "compose"


def create(folder: Path, shards: int = 1) -> Path:
    """Make `secrets` and `signer` below the folder; nothing that exists is changed. Gives the secrets' folder."""
    secrets = folder / "secrets"
    (folder / "signer").mkdir(mode=0o700, parents=True, exist_ok=True)
    create_secrets(secrets, os.urandom, register.load().sources, grants(), shards, [*roles(), SUPERUSER])
    password = (secrets / f"database-{SUPERUSER}").read_text("ascii").strip()
    pgpass = secrets / f"{SUPERUSER}.pgpass"
    # PostgreSQL's clients read passwords in this form, and only from a file that nobody else can read.
    draft = pgpass.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_text(f"*:*:*:{SUPERUSER}:{password}\n", "ascii")
    draft.replace(pgpass)
    return secrets


def main() -> None:
    """Make them where the compose file looks for them."""
    named = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CONSENT_LEDGER_FOLDER")
    print(f"secrets are in {create(Path(named) if named else FOLDER)}")  # noqa: T201


if __name__ == "__main__":
    main()
