"""Jars from Maven Central: fetched once per user, pinned by SHA-256, healed when broken, shared by all checkouts."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from infra.local.processes import NotStarted

PINS = Path(__file__).with_name("kafka-jars.txt")
MAVEN_CENTRAL = "https://repo.maven.apache.org/maven2"
SYSTEM_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"  # Debian's name, and most others'
FETCHERS = 8
ATTEMPTS = 3
TIMEOUT = 15  # seconds without a byte


class Missing(NotStarted):
    """Something that must be fetched is not here and cannot be fetched; the message says what to do."""

    def __init__(self, why: str) -> None:
        super().__init__("Apache Kafka", why)


@dataclass(frozen=True)
class Jar:
    """One Maven artifact and the SHA-256 of its only acceptable content."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """Name in the cache; the hash in it lets two versions of our list share one cache."""
        return f"{self.artifact}-{self.version}-{self.sha256[:12]}.jar"


def pinned(path: Path = PINS) -> list[Jar]:
    """Read the list: `group:artifact:version sha256` per line, comments after `#`."""
    jars = []
    for line in path.read_text(encoding="ascii").splitlines():
        if entry := line.partition("#")[0].strip():
            coordinate, sha256 = entry.split()
            group, artifact, version = coordinate.split(":")
            jars.append(Jar(group, artifact, version, sha256))
    return jars


def cache_folder(environment: Mapping[str, str], checkout: Path) -> Path:
    """Return $CONSENT_LEDGER_CACHE, else the user's cache directory, else (no home to write to) the checkout's own."""
    if chosen := environment.get("CONSENT_LEDGER_CACHE"):
        return Path(chosen)
    if caches := environment.get("XDG_CACHE_HOME"):
        return Path(caches) / "consent-ledger"
    home = Path(environment["HOME"]) if environment.get("HOME") else None
    if home is not None and os.access(home, os.W_OK):
        return home / ".cache" / "consent-ledger"
    return checkout / ".local" / "cache"


def is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is there with exactly this content."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def jars(folder: Path, wanted: Sequence[Jar], fetch: Callable[[Jar, Path], Path] | None = None) -> list[Path]:
    """Return the files of the wanted jars, sorted by name, each checked; fetches what is missing or broken.

    Many processes may ask at once: one fetches, the others wait for it.
    """
    files = {jar: folder / jar.file_name for jar in wanted}
    if _not_intact(files):
        _make_writable(folder)
        with _filling(folder):
            missing = _not_intact(files)  # again: another process may have filled it while we waited
            if missing:
                _fill(folder, missing, files, fetch or _from_maven())
    return sorted(files.values())


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a", encoding="ascii"):
            pass
    except OSError:
        why = f"{folder} cannot be written to; mend that, or name another folder in CONSENT_LEDGER_CACHE"
        raise Missing(why) from None


def _not_intact(files: Mapping[Jar, Path]) -> list[Jar]:
    return [jar for jar, path in files.items() if not is_intact(path, jar.sha256)]


@contextlib.contextmanager
def _filling(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _progress(f"waiting for another run that fills {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for abandoned in folder.glob("incoming-*"):  # of a run that was killed: we hold the lock, so nobody fills it
            shutil.rmtree(abandoned, ignore_errors=True)
        yield


def _fill(folder: Path, missing: Sequence[Jar], files: Mapping[Jar, Path], fetch: Callable[[Jar, Path], Path]) -> None:
    _progress(f"fetching {len(missing)} of the {len(files)} jars into {folder}")
    incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=folder))
    done = 0
    try:
        with ThreadPoolExecutor(FETCHERS) as fetchers:
            pending = {fetchers.submit(_fetch_one, jar, incoming, files[jar], fetch): jar for jar in missing}
            try:
                for future in as_completed(pending):
                    future.result()
                    done += 1
                    if done % 10 == 0 or done == len(missing):
                        _progress(f"{done} of {len(missing)} jars")
            except BaseException:
                fetchers.shutdown(cancel_futures=True)
                raise
    except Exception as error:
        still = _not_intact(files)
        raise Missing(_advice(folder, still, error)) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _fetch_one(jar: Jar, incoming: Path, target: Path, fetch: Callable[[Jar, Path], Path]) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        place = incoming / f"{jar.file_name}-{attempt}"
        try:
            got = fetch(jar, place)
        except Exception:
            # Not only OSError: the resolver reports some failures as plain RuntimeError or AssertionError.
            if attempt == ATTEMPTS:
                raise
            continue
        if is_intact(got, jar.sha256):
            got.replace(target)  # same file system: whole or not at all
            return
    raise OSError(f"{jar.artifact}-{jar.version}.jar arrives with other content than the pinned one")


def _from_maven() -> Callable[[Jar, Path], Path]:
    """Fetch exact artifacts by jgo's own resolver; never its dependency resolution, which picks other versions."""
    from jgo.maven import MavenContext, PythonResolver  # noqa: PLC0415  only needed when something is missing

    _trust_what_pip_trusts()
    repository = os.environ.get("CONSENT_LEDGER_MAVEN", MAVEN_CENTRAL)

    def fetch(jar: Jar, place: Path) -> Path:
        context = MavenContext(
            resolver=PythonResolver(), repo_cache=place, remote_repos={"central": repository}, timeout=TIMEOUT
        )
        return Path(context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve())

    return fetch


def _trust_what_pip_trusts() -> None:
    """Let the resolver's HTTP library (requests) see the certificates of this machine, as the Makefile does for pip."""
    if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        return
    named = (os.environ.get("SSL_CERT_FILE"), os.environ.get("PIP_CERT"), SYSTEM_CERTIFICATES)
    found = next((bundle for bundle in named if bundle and Path(bundle).exists()), None)
    if found is not None:  # else requests has a list of its own
        os.environ["REQUESTS_CA_BUNDLE"] = found


def _advice(folder: Path, missing: Sequence[Jar], error: Exception) -> str:
    names = "".join(f"\n  {jar.group}:{jar.artifact}:{jar.version}" for jar in missing[:5])
    more = f"\n  and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"{len(missing)} jars are neither in {folder} nor could they be fetched:{names}{more}\n"
        f"The last failure: {type(error).__name__}: {str(error)[:300]}\n"
        f"What to do: connect this machine to {os.environ.get('CONSENT_LEDGER_MAVEN', MAVEN_CENTRAL)} and repeat "
        "(HTTPS_PROXY and REQUESTS_CA_BUNDLE are honoured); or name a mirror of Maven Central in CONSENT_LEDGER_MAVEN; "
        f"or copy the folder from a machine that has it to {folder}."
    )


def _progress(line: str) -> None:
    print(f"local parts: {line}", file=sys.stderr, flush=True)
