"""Calls to servers that are not ours: no credential, no redirects, an answer of bounded size or none at all."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp

from shared.errors import Unavailable

_LARGEST_ANSWER: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """Whatever was answered, whatever the status."""

    status: int
    body: bytes


class Outside:
    """One session for all of them; connections are kept, because we ask the same few again and again."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, kind: str, seconds: float) -> Answer:
        """The answer; Unavailable if none comes in time, or one that is larger than we read."""
        if self._session is None:
            # Made here and not in the constructor: a session belongs to the running loop.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=30), cookie_jar=aiohttp.DummyCookieJar()
            )
        try:
            async with self._session.post(
                url,
                data=body,
                headers={"Content-Type": kind, "User-Agent": "consent-ledger"},
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as answer:
                content = b""
                async for part in answer.content.iter_any():
                    content += part
                    if len(content) > _LARGEST_ANSWER:
                        raise Unavailable(_host(url))
                return Answer(answer.status, content)
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError, ValueError):
            raise Unavailable(_host(url)) from None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


def _host(url: str) -> str:
    return url.split("//", 1)[-1].split("/", 1)[0]
