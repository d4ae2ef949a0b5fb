"""Calls to other services: one session, a credential, a timeout, and our three errors instead of a library's many."""

from __future__ import annotations

import asyncio
import json as json_text
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from shared.errors import Refused, Unavailable

_TOO_MANY: Final = 429
_MAX_BODY: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """An answer below 400."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The body as JSON; Unavailable if it is none, since a service of ours never answers so."""
        try:
            return json_text.loads(self.body)
        except ValueError:
            raise Unavailable(self.headers.get("x-service", "service")) from None


class ServiceClient:
    """Calls one service. Paths are full (`/ledger/records`); nothing is ever retried here."""

    def __init__(self, base_url: str, credential: str, service: str = "") -> None:
        self._base_url = base_url.rstrip("/")
        self._credential = credential
        self._service = service
        self._session: aiohttp.ClientSession | None = None

    async def get(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        timeout: float = 5,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        return await self._call("GET", path, params=params, timeout=timeout, headers=headers)

    async def post(
        self,
        path: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        timeout: float = 5,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        return await self._call("POST", path, json=json, data=data, params=params, timeout=timeout, headers=headers)

    async def put(
        self,
        path: str,
        *,
        json: Any = None,
        data: bytes | None = None,
        params: Mapping[str, Any] | None = None,
        timeout: float = 5,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        return await self._call("PUT", path, json=json, data=data, params=params, timeout=timeout, headers=headers)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None,
        timeout: float,
        json: Any = None,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        service = self._service or path.split("/", 2)[1]
        sent = {"Authorization": f"Bearer {self._credential}", "Accept": "application/json", **(headers or {})}
        if json is not None:
            data = json_text.dumps(json, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
            sent["Content-Type"] = "application/json"
        elif data is not None:
            sent.setdefault("Content-Type", "application/octet-stream")
        if self._session is None:
            # Made here and not in the constructor: a session belongs to the running loop.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=64, keepalive_timeout=20),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=True,
            )
        try:
            async with self._session.request(
                method,
                self._base_url + path,
                params={key: str(value) for key, value in (params or {}).items()},
                data=data,
                headers=sent,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout, connect=min(timeout, 3)),
            ) as answer:
                body = await _whole(answer.content, service)
                return _checked(service, answer.status, body, {k.lower(): v for k, v in answer.headers.items()})
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError):
            # The exception's text holds the address with its parameters.
            raise Unavailable(service) from None


async def _whole(content: aiohttp.StreamReader, service: str) -> bytes:
    """All of a body; `read(n)` would give the part that has arrived so far."""
    parts: list[bytes] = []
    size = 0
    async for part in content.iter_any():
        size += len(part)
        if size > _MAX_BODY:
            raise Unavailable(service)
        parts.append(part)
    return b"".join(parts)


def _checked(service: str, status: int, body: bytes, headers: dict[str, str]) -> Response:
    if status >= 500 or status == _TOO_MANY:
        after = headers.get("retry-after", "")
        raise Unavailable(service, int(after) if after.isdecimal() and len(after) < 4 else 2)
    if status >= 400:
        try:
            error = json_text.loads(body)
            code, message = str(error.pop("error")), str(error.pop("message"))
            facts = {str(key): value for key, value in error.items() if str(key) not in {"code", "message", "status"}}
        except (ValueError, KeyError, AttributeError, TypeError):
            code, message, facts = "refused", "The request was refused.", {}
        raise Refused(code, message, status=status, **facts)
    headers.setdefault("x-service", service)
    return Response(status, body, headers)
