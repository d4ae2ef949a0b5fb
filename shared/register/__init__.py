"""The processing register: what is collected, asked, kept, said and by whom, as data that every service reads.

Reads its own files in `data/` once, at `load()`; owns nothing else. A register is valid as a whole or refused with the
file and the remedy. `Register.version` is the SHA-256 of `Register.snapshot()`; statements carry it.
"""

from shared.register.errors import NotInRegister, Problem, RegisterInvalid
from shared.register.files import Authority, FormField, Party, Purpose, Recipient, Retention, UnaskedPurpose
from shared.register.grade import Facts, Grade, GradeRule
from shared.register.lint import Finding, lint
from shared.register.notice import Choice, Notice, Section
from shared.register.register import Activity, Register, load
from shared.register.show import show
from shared.register.vocabulary import RESTRICTIVE, STATEMENT_TYPES, Period

__all__ = [
    "RESTRICTIVE",
    "STATEMENT_TYPES",
    "Activity",
    "Authority",
    "Choice",
    "Facts",
    "Finding",
    "FormField",
    "Grade",
    "GradeRule",
    "NotInRegister",
    "Notice",
    "Party",
    "Period",
    "Problem",
    "Purpose",
    "Recipient",
    "Register",
    "RegisterInvalid",
    "Retention",
    "Section",
    "UnaskedPurpose",
    "lint",
    "load",
    "show",
]
