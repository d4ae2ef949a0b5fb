"""What a verifier tells while it goes through its steps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step has shown."""

    step: int
    text: str
