"""The public half of our DKIM keys as DNS records, so that archived mails can be checked offline."""

import base64
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives import serialization
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from shared.access import open_to_everyone
from shared.openapi import door, json

_CACHED: Final = {"Cache-Control": "public, max-age=300"}


def dns_record(private_pem: bytes) -> str:
    """What stands in the TXT record `<selector>._domainkey.<domain>` (RFC 6376 §3.6.1)."""
    public = serialization.load_pem_private_key(private_pem, password=None).public_key()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode('ascii')}"


def key_set(domain: str, keys: Mapping[str, bytes]) -> dict[str, list[dict[str, str]]]:
    """Every key by its selector, private PEM in, record out."""
    return {
        "keys": [
            {"domain": domain, "selector": selector, "record": dns_record(pem)}
            for selector, pem in sorted(keys.items())
        ]
    }


def router(domain: str, keys: Mapping[str, bytes]) -> APIRouter:
    """GET /newsletter/dkim-keys."""
    routes = APIRouter(prefix="/newsletter")
    served = key_set(domain, keys)

    @routes.get("/dkim-keys", dependencies=[Depends(open_to_everyone)])
    @door(answers={200: json("Each key with its domain and selector.", dict[str, list[dict[str, str]]])})
    async def dkim_keys() -> Response:
        """Public DKIM keys, as their DNS records have them."""
        return JSONResponse(served, headers=_CACHED)

    return routes
