"""Addresses that users name: parsed, and resolved to what they may reach."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import SplitResult, quote, urlsplit

import idna
from django.conf import settings

from . import dns
from .errors import Refused, Unreachable
from .public_addresses import Address, Allowed, is_public

RESOLVE_SECONDS = 5.0
MAX_URL = 8192  # characters
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """A parsed URL, with the host as it is queried in DNS."""

    scheme: str
    host: str
    port: int
    path: str  # with the query, percent-encoded

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port


def parse(url: str, *, https_only: bool = False) -> Target:
    """Refused for anything but a plain http(s) URL with a plain host."""
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise Refused(f"An address has at most {MAX_URL} characters")
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise Refused("The address has spaces, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refused("This is not a valid address") from None
    schemes = ("https",) if https_only else ("http", "https")
    if parts.scheme not in schemes:
        raise Refused(f"The address must start with {' or '.join(f'{name}://' for name in schemes)}")
    if "@" in parts.netloc:
        raise Refused("The address must not have a user name or password in it")
    if port == 0:
        raise Refused("The address has no valid port")
    return Target(parts.scheme, _host(parts), port or DEFAULT_PORTS[parts.scheme], _path(parts))


def _host(parts: SplitResult) -> str:
    """The host as queried in DNS. Odd spellings of numeric addresses (0x7f.1, 2130706433, 127.1) are
    refused."""
    host = (parts.hostname or "").rstrip(".")
    if ":" in host:
        try:
            if "%" in host:
                raise ValueError("a zone refers to one of our interfaces")
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise Refused("The address has no valid host") from None
    try:
        # IDNA 2008, as browsers use it: Python's built-in codec encodes straße.de differently.
        host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii").rstrip(".")
    except idna.IDNAError:
        raise Refused("The address has no valid host") from None
    if not re.fullmatch(r"[a-z0-9_-]([a-z0-9_.-]{0,251}[a-z0-9_-])?", host) or ".." in host:
        raise Refused("The address has no valid host")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rpartition(".")[2]):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise Refused("Write a numeric address as four decimal numbers") from None
    return host


def _path(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/:@!$&'()*+,;=-._~%")
    query = quote(parts.query, safe="/:@!$&'()*+,;=-._~%?[]{}|^`")
    return f"{path}?{query}" if query else path


def literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=8)
def _allowed(entries: tuple[str, ...]) -> Allowed:
    return Allowed(entries)


def addresses_of(target: Target, *, seconds: float | None = None) -> list[Address]:
    """Allowed addresses, in the resolver's order. Refused if the name resolves, but to none of them."""
    numeric = literal(target.host)
    try:
        known = (
            [numeric]
            if numeric
            else dns.addresses_of(target.host, target.port, seconds=seconds or RESOLVE_SECONDS)
        )
    except TimeoutError:
        raise Unreachable(f"The host {target.host} cannot be found: DNS does not answer") from None
    except (OSError, UnicodeError):
        raise Unreachable(f"The host {target.host} cannot be found") from None
    allowed = _allowed(tuple(settings.OUTBOUND_ALLOW))
    free = allowed.host(target.host)
    good = [address for address in known if free or is_public(address) or allowed.address(address)]
    if not good:
        # The address is not given: that would disclose the internal network.
        raise Refused(f"The host {target.host} is not one of the public internet")
    return good
