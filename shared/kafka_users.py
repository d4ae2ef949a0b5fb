"""Who may do what on Kafka: one user per service with exactly what the flow needs, nothing else for anybody.

What is missing is granted and passwords are set anew; what others were granted is left alone.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.admin import CreateAclsRequest
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from shared.backoff import Backoff
from shared.errors import Refused, Unavailable
from shared.identifiers import Random
from shared.kafka_login import Login
from shared.topics import RECORDED, STATED

ADMIN: Final = "admin"
AUDIENCE: Final = "audience"
"""The user, the consumer group, and with a hyphen the first part of the names of Faust's own topics."""

_READ, _WRITE, _CREATE = 3, 4, 5  # AclOperation; reading and writing include describing
_TOPIC, _GROUP = 2, 3  # ResourceType
_LITERAL, _PREFIXED = 3, 4  # PatternType
_ALLOW: Final = 3
_SCRAM_SHA_512: Final = 2
_ITERATIONS: Final = 4096  # what brokers ask at least; guessing 32 random bytes needs no slowing down
_NOT_READY: Final = {7, 13, 14, 15, 16, 41}
"""Broker errors that waiting cures: a controller or coordinator that is not there yet."""
_NOT_AUTHORIZED: Final = 31
_WITHIN: Final = 30.0


class Grant(NamedTuple):
    """One right of one user."""

    user: str
    resource: int
    name: str
    pattern: int
    operation: int


def grants(prefix: str, sources: Iterable[str]) -> Iterator[Grant]:
    """The flow, as rights: sources state, the appender reads what is stated, the publisher records, followers read."""
    for source in sources:
        yield Grant(source, _TOPIC, prefix + STATED, _LITERAL, _WRITE)
    yield Grant("ledger-append", _TOPIC, prefix + STATED, _LITERAL, _READ)
    yield Grant("ledger-seal", _TOPIC, prefix + RECORDED, _LITERAL, _WRITE)
    for follower in ("subjects", "marketing", AUDIENCE):
        yield Grant(follower, _TOPIC, prefix + RECORDED, _LITERAL, _READ)
    yield Grant(AUDIENCE, _GROUP, prefix + AUDIENCE, _LITERAL, _READ)
    for operation in (_READ, _WRITE, _CREATE):
        yield Grant(AUDIENCE, _TOPIC, f"{prefix}{AUDIENCE}-", _PREFIXED, operation)


def users(sources: Iterable[str]) -> list[str]:
    """Everybody who is granted anything."""
    return sorted({grant.user for grant in grants("", sources)})


def passwords(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """By user; those that have a file `kafka-<user>`."""
    files = {name: directory / f"kafka-{name}" for name in names}
    return {name: file.read_text("ascii").strip() for name, file in files.items() if file.is_file()}


class _AlterUsersResponse(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _AlterUsersStruct(RequestStruct):  # type: ignore[misc]  # as above
    """AlterUserScramCredentials, version 0, which aiokafka does not have."""

    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _AlterUsersResponse
    SCHEMA = Schema(
        ("deletions", CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields))),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


@dataclass(frozen=True)
class _AlterUsers(Request[_AlterUsersStruct]):  # type: ignore[misc]  # as above
    API_KEY = 51
    upsertions: list[tuple[Any, ...]]

    def build(self, request_struct_class: type[_AlterUsersStruct]) -> _AlterUsersStruct:
        return request_struct_class([], self.upsertions, {})


async def ensure_users(
    bootstrap: str, login: Login, prefix: str, sources: Iterable[str], known: Mapping[str, str], random: Random
) -> None:
    """Give each user in `known` this password, and every user of the flow what it may; safe to repeat.

    Refused if `login` may not, or if the brokers keep no list of rights. Unavailable if none answers in time.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=15_000, **login.options())
    wanted = list(grants(prefix, sources))
    try:
        await admin.start()
        async with asyncio.timeout(_WITHIN):
            await _until_done(partial(_set_passwords, admin, known, random))
            for grant in wanted:
                await _until_done(partial(_allow, admin, grant))
    except (KafkaError, OSError, TimeoutError):
        raise Unavailable("kafka") from None
    finally:
        await admin.close()


async def _until_done(attempt: Callable[[], Awaitable[list[int]]]) -> None:
    """Ask again while a broker that wakes up refuses; then it is done, or refused for good."""
    backoff = Backoff(first=0.05, longest=1.0)
    while codes := {code for code in await attempt() if code}:
        if codes <= _NOT_READY:
            await backoff.pause()
        elif _NOT_AUTHORIZED in codes:
            raise Refused("kafka-not-authorized", "This user of Kafka may not make users and grant rights.")
        else:
            raise Refused(
                "kafka-users", f"Kafka did not make the users and their rights: broker errors {sorted(codes)}."
            )


async def _set_passwords(admin: Any, known: Mapping[str, str], random: Random) -> list[int]:
    if not known:
        return []
    upsertions: list[tuple[Any, ...]] = []
    for user, password in known.items():
        salt = random(32)
        salted = hashlib.pbkdf2_hmac("sha512", password.encode("utf-8"), salt, _ITERATIONS)  # RFC 5802: Hi()
        upsertions.append((user, _SCRAM_SHA_512, _ITERATIONS, salt, salted, {}))
    answer = await admin._send_request(_AlterUsers(upsertions))  # noqa: SLF001 - aiokafka has no method for it
    return [code for _user, code, *_ in answer.results]


async def _allow(admin: Any, grant: Grant) -> list[int]:
    request = CreateAclsRequest(
        grant.resource, grant.name, grant.pattern, f"User:{grant.user}", "*", grant.operation, _ALLOW
    )
    answer = await admin._send_request(request)  # noqa: SLF001 - aiokafka has the request, and no method for it
    return [code for code, *_ in answer.creation_responses]
