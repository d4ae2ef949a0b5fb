"""From a folder of files to plain data: what is there, what parses, and what was published and may not change."""

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

from shared.register.canonical import unfit
from shared.register.errors import Problem, RegisterInvalid

LOCK = "notices.lock"
SINGLE_FILES = ("grades.toml", "parties.toml", "register.toml", "rights.toml", "sources.toml")

# A parsed TOML file, or the text of a notice, by its path inside the register.
Contents = Mapping[str, dict[str, object] | str]


def read_files(folder: Path) -> dict[str, bytes]:
    """Return every file of the folder by its relative path with slashes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def parse_files(files: Mapping[str, bytes]) -> Contents:
    """Parse every file and hold the notices against the lock; raises RegisterInvalid with all that is wrong."""
    problems: list[Problem] = [
        Problem(name, "", "is missing", "add it; the packaged register shows its form")
        for name in (*SINGLE_FILES, LOCK)
        if name not in files
    ]
    contents: dict[str, dict[str, object] | str] = {}
    for path, content in sorted(files.items()):
        parent, _, name = path.rpartition("/")
        try:
            if path in SINGLE_FILES or (parent == "activities" and name.endswith(".toml")):
                contents[path] = tomllib.loads(content.decode())
                problems.extend(filter(None, [unfit(path, contents[path])]))
            elif parent.startswith("notices/") and name.endswith(".md"):
                contents[path] = content.decode()
            elif path != LOCK:
                problems.append(Problem(path, "", "is read by nobody", "remove it, or put it where its kind belongs"))
        except UnicodeDecodeError:
            problems.append(Problem(path, "", "not UTF-8", "save it as UTF-8"))
        except tomllib.TOMLDecodeError as error:
            problems.append(Problem(path, "", f"not TOML: {error}", "correct that line"))
    problems.extend(_against_lock(files))
    if problems:
        raise RegisterInvalid(problems)
    return contents


def _against_lock(files: Mapping[str, bytes]) -> Iterator[Problem]:
    # People decided on these words: a published notice is evidence, so it is never edited and never removed.
    locked: dict[str, str] = {}
    for number, line in enumerate(files.get(LOCK, b"").decode(errors="replace").splitlines(), start=1):
        digest, separator, path = line.partition("  ")
        if not separator or path in locked:
            yield Problem(LOCK, f"line {number}", "not '<sha256>  <path>' once per path", "write it as sha256sum does")
        locked[path] = digest
    for path, content in files.items():
        if not path.startswith("notices/"):
            continue
        digest = hashlib.sha256(content).hexdigest()
        if path not in locked:
            yield Problem(path, "", "is not published yet", f"when the text is final, add to {LOCK}: {digest}  {path}")
        elif locked[path] != digest:
            yield Problem(path, "", "was published and has been edited", "restore it and write the next version")
    for path in locked:
        if path not in files:
            yield Problem(path, "", "was published and is gone", "restore it; superseded notices stay for ever")
