"""The one error of verification."""


class Invalid(Exception):
    """What was presented does not verify.

    `step` names the check that failed, `what` the thing that was looked at, `why` what is wrong with it;
    `index` is the log index of the wrong leaf where there is one. None of them holds anything personal.
    Malformed input of any kind ends here too: no other exception leaves the reader because of what it was given.
    """

    def __init__(self, step: str, what: str, why: str, *, index: int | None = None) -> None:
        super().__init__(step, what, why)
        self.step = step
        self.what = what
        self.why = why
        self.index = index

    def __str__(self) -> str:
        return f"{self.step}: {self.what} {self.why}"
