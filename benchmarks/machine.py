"""What the figures were measured on: cores, memory, versions, and how busy the machine was with other things."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from infra.local import downloads

_KAFKA = "org.apache.kafka:kafka_"


def kafka_version() -> str:
    """The version of the broker's own jar."""
    for line in Path(downloads.__file__).with_name("kafka-jars.txt").read_text("ascii").splitlines():
        if line.startswith(_KAFKA):
            return line.split()[0].rsplit(":", 1)[1]
    return "unknown"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def described(postgres: str) -> str:
    """One line that names the machine and what runs on it."""
    parts = [
        f"{cores()} cores ({_processor()})",
        f"{_memory()} memory",
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        f"PostgreSQL {postgres}",
        f"Kafka {kafka_version()}",
    ]
    return ", ".join(parts)


def load() -> float:
    """Mean number of processes that wanted a core in the last minute, ours included."""
    return os.getloadavg()[0]


def _processor() -> str:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return " ".join(line.split(":", 1)[1].split())
    return platform.machine()


def _memory() -> str:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal"):
            return f"{int(line.split()[1]) / 1024**2:.0f} GiB"
    return "unknown"


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text("utf-8").splitlines()
    except OSError:
        return []
