"""The client's address: the peer, or what the trusted proxy reported, never what the client sent."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest

REMEMBERED = 1_000  # parsed addresses, in each process
UNKNOWN = "0.0.0.0"  # noqa: S104  (no address to bind to: a peer on a Unix socket has none)


def client_address(request: HttpRequest) -> str:
    """The client's address. With TRUSTED_PROXY_HOPS=n the n-th from the right of X-Forwarded-For."""
    peer = str(request.META.get("REMOTE_ADDR") or "")
    return _reported(peer, request.headers.get("X-Forwarded-For", ""))


def address_of(scope: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> str:
    """The same of an ASGI request that has not become Django's; `headers` are those that may be believed."""
    chain = b",".join(value for name, value in headers if name == b"x-forwarded-for")
    return _reported(str((scope.get("client") or ("",))[0]), chain.decode("latin-1"))


def _reported(peer: str, forwarded: str) -> str:
    hops = settings.TRUSTED_PROXY_HOPS
    if hops:
        chain = [part.strip() for part in forwarded.split(",")]
        peer = chain[-hops] if len(chain) >= hops else peer
    return _normal(peer)


@lru_cache(maxsize=REMEMBERED)
def network(address: str) -> str:
    """The rate-limit key of a client: an IPv4 address, or the /64 assigned to one customer in IPv6."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False).network_address)


@lru_cache(maxsize=REMEMBERED)
def _normal(address: str) -> str:
    address = address.split("%")[0]  # the zone of a link-local address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return UNKNOWN
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
