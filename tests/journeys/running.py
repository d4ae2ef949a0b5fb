"""One running installation for a whole test session, on the session's own Kafka and PostgreSQL."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Final

from infra.local.installation import Installation
from infra.local.state import LOCAL, free_slot

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.parts import KafkaPart, PostgresPart

# Slow enough that somebody can withdraw in the middle of an issue to a handful of people, fast enough for a test.
MAILS_PER_SECOND: Final = "6"


@contextlib.contextmanager
def running_installation(
    kafka: KafkaPart, postgres: PostgresPart, what: str, settings: Mapping[str, str] | None = None
) -> Iterator[Installation]:
    """Every service as its own process, from an empty state folder and an empty database."""
    with free_slot(LOCAL / "tests" / what, f"the {what} tests") as state:
        state.empty()
        # Of its own name: another installation of this session is still up on the same server.
        database = f"consent_{what}"
        clear = f"drop database if exists {database} with (force)"
        psql = [str(postgres.binary("psql")), "-Xq", "-d", postgres.dsn(), "-c", clear]
        subprocess.run(psql, check=True, capture_output=True)
        prefix = f"{what}-{state.folder.name}-{id(state)}."
        chosen = {"topic_prefix": prefix, "campaign_rate": MAILS_PER_SECOND, **(settings or {})}
        parts = {"kafka": kafka, "postgres": postgres}
        with Installation(state.folder, **parts, database=database, settings=chosen) as installation:  # type: ignore[arg-type]
            yield installation
        subprocess.run(psql, check=True, capture_output=True)
