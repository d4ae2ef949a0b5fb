"""Who may call: a credential per service, scopes per caller, and denial for every route that says nothing.

A credential is `Authorization: Bearer <caller>:<secret>`, or the same two as HTTP Basic, so that a person can open
an operator's page in a browser.

A route says one of: `dependencies=[Depends(needs("subjects.seal"))]`, `@open_to_everyone`, `@open_by_capability`
(the last: an unguessable part of the address is the key, the handler checks it). The last two also work as
`Depends(open_to_everyone)`.
"""

import base64
import hmac
import inspect
import tomllib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, overload

from fastapi import FastAPI, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts

from shared.errors import Refused
from shared.secrets import Secrets

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_DECLARED: Final = "__access__"
_NOBODY: Final = ("-",)


GRANTS: Final = Path(__file__).with_name("grants.toml")


def grants(path: Path = GRANTS) -> dict[str, list[str]]:
    """Every caller of ours with its scopes, from the file beside this one. Those of other teams stand beside their
    credentials: `grants.toml` in the folder of the secrets."""
    return tomllib.loads(path.read_text("utf-8"))


class Access:
    """The callers of this installation, their secrets and what each may do."""

    def __init__(self, callers: Mapping[str, Sequence[str]], grants: Mapping[str, Iterable[str]]) -> None:
        self._callers = {caller: tuple(secrets) for caller, secrets in callers.items()}
        self._grants = {caller: frozenset(scopes) for caller, scopes in grants.items()}

    @classmethod
    def load(cls, secrets: Secrets, path: Path = GRANTS) -> "Access":
        return cls(secrets.callers(), grants(path) | secrets.grants())

    def caller(self, authorization: str | None) -> str:
        """The caller a header proves; Refused 401 otherwise. Takes as long for an unknown caller as for a known one."""
        name, secret = _credential(authorization or "")
        proven = False
        for valid in self._callers.get(name, _NOBODY):
            proven |= hmac.compare_digest(valid.encode(), secret.encode()) and name in self._callers
        if not proven:
            raise Refused(
                "credential-missing",
                "This address needs a service credential: Authorization: Bearer <caller>:<secret>, or HTTP Basic.",
                status=401,
            )
        return name

    def allow(self, authorization: str | None, scope: str) -> str:
        """The caller's name, if it may use `scope`; Refused 401 or 403 otherwise."""
        caller = self.caller(authorization)
        if scope not in self._grants.get(caller, frozenset()):
            raise Refused("scope-missing", "This credential has no grant for this address.", status=403, scope=scope)
        return caller


def _credential(authorization: str) -> tuple[str, str]:
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    match scheme.lower():
        case "bearer":
            pass
        case "basic":
            try:
                value = base64.b64decode(value, validate=True).decode("utf-8")
            except ValueError:
                return "", ""
        case _:
            return "", ""
    name, _, secret = value.partition(":")
    return name, secret


def needs(scope: str) -> Callable[[Request], Awaitable[str]]:
    """A FastAPI dependency: only callers with `scope`; its value is the caller's name."""

    async def caller_with_scope(request: Request) -> str:
        access: Access = request.app.state.access
        return access.allow(request.headers.get("authorization"), scope)

    setattr(caller_with_scope, _DECLARED, scope)
    return caller_with_scope


class _Open:
    """Marks an endpoint as callable without a credential: as decorator, or as dependency."""

    def __init__(self, kind: str) -> None:
        self.__access__ = kind
        # FastAPI reads a dependency's parameters from its signature; as a dependency this one has none.
        self.__signature__ = inspect.Signature()

    @overload
    def __call__(self) -> None: ...
    @overload
    def __call__(self, endpoint: Endpoint) -> Endpoint: ...
    def __call__(self, endpoint: Endpoint | None = None) -> Endpoint | None:
        if endpoint is not None:
            setattr(endpoint, _DECLARED, self.__access__)
        return endpoint


open_to_everyone = _Open("everyone")
open_by_capability = _Open("capability")


def _declared(dependant: Dependant) -> Iterator[str]:
    for dependency in dependant.dependencies:
        if dependency.call is not None and hasattr(dependency.call, _DECLARED):
            yield str(getattr(dependency.call, _DECLARED))
        yield from _declared(dependency)


def declarations(app: FastAPI) -> list[tuple[RouteContext, str | None]]:
    """Every route of an app with who may call it: a scope, `everyone`, `capability`, or None if it says nothing."""
    found: list[tuple[RouteContext, str | None]] = []
    for context in iter_route_contexts(app.routes):
        said: set[str] = set()
        dependant = getattr(context, "dependant", None)
        if isinstance(dependant, Dependant):
            said.update(_declared(dependant))
        endpoint = context.endpoint
        if endpoint is not None and hasattr(endpoint, _DECLARED):
            said.add(str(getattr(endpoint, _DECLARED)))
        # Two different words on one route are a mistake; treat it as none, which denies.
        found.append((context, said.pop() if len(said) == 1 else None))
    return found
