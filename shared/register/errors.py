"""What can be wrong with the register, or with a question put to it."""

from collections.abc import Iterable
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: in which file, where in it, what, and what to do about it."""

    file: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.file}: {self.where}" if self.where else self.file
        return f"{place}: {self.what}; {self.remedy}"


class RegisterInvalid(Exception):
    """The processing register contradicts itself and cannot be used until its files are corrected."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class NotInRegister(LookupError):
    """The processing register has no such entry."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"the register has no {kind} {name!r}")
