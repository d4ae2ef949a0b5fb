"""The three ways things go wrong, because there are three things to do about them.

Messages are public: they reach people's screens. Facts travel as keywords and never hold anything personal.
"""

from __future__ import annotations

from collections.abc import Mapping


class Refused(Exception):
    """This was not accepted; the message says what to do. For a message on a topic: a row with its reason, move on."""

    def __init__(self, code: str, message: str, *, status: int = 400, **facts: object) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.status = status
        self.facts: Mapping[str, object] = facts


class Unavailable(Exception):
    """A part we need does not answer right now. Keep your place, back off, ask again after `retry_after` seconds.

    What was asked may or may not have happened: whoever asks again must be prepared for both.
    """

    def __init__(self, service: str, retry_after: int = 2) -> None:
        super().__init__(service)
        self.service = service
        self.retry_after = retry_after


class Corrupt(Exception):
    """What is stored contradicts itself. Going on could make it worse: the process stops and a person looks."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")
        self.what = what
        self.where = where
