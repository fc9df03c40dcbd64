"""The guarded HTTP client: every request to a user-supplied URL goes through here.

The name is resolved once, each address is checked, and the connection goes to a checked address,
never to the result of a second lookup. Each redirect is checked in the same way. Size and time are
limited. Proxies of the environment are not used: they would resolve the name themselves.

Raises what `errors` has; addresses are checked in `addresses`, time is limited by `deadline`.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import urljoin

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from .addresses import RESOLVE_SECONDS, Target, addresses_of, literal, parse
from .deadline import Cancellation, Deadline
from .errors import OutboundError, Refused, TookTooLong, TooLarge, Unreachable, Unusable
from .header_values import whole_number
from .public_addresses import Address

__all__ = [
    "Answer", "Cancellation", "OutboundError", "Posted", "Refused", "TooLarge", "TookTooLong", "Unreachable",
    "Unusable", "check", "get", "parse", "post", "put",
]  # fmt: skip

USER_AGENT = "ComfyServe"
CONNECT_SECONDS = 10.0
IDLE_SECONDS = 30.0  # of inactivity, unless the caller overrides it
REDIRECTS = 5
CHECK_SECONDS, CHECKS_AT_ONCE = 1.0, 4  # DNS lookups of `check`
MAX_ANSWER = 64 * 1024  # bytes kept of the response to a POST
CHUNK_BYTES = 256 * 1024
REDIRECTING = (301, 302, 303, 307, 308)
_checks = threading.BoundedSemaphore(CHECKS_AT_ONCE)
# Headers that may follow a redirect to another host; all others might be credentials.
SAFE_HEADERS = {"accept", "accept-language", "user-agent", "range", "if-range", "if-none-match"}


@dataclass
class Answer:
    """The response. `chunks()` may be read once, inside the `with` of `get`."""

    status: int
    headers: Mapping[str, str]  # case-insensitive
    url: str  # after redirects
    hops: list[Mapping[str, str]] = field(repr=False)  # headers of the redirects that were followed
    _read: Any = field(repr=False)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def chunks(self) -> Iterator[bytes]:
        """Raises TooLarge, TookTooLong, Unreachable."""
        yield from self._read()


@dataclass(frozen=True)
class Posted:
    status: int
    headers: Mapping[str, str]
    body: bytes  # the first MAX_ANSWER bytes


# -- the public functions ----------------------------------------------------------------------------
def check(url: str, *, https_only: bool = False, resolve: bool = True) -> None:
    """Refused if the URL could never be fetched. A name that does not resolve now is accepted: it may later.

    Without `resolve` only the text is checked, and DNS is not queried. Neither is it while others wait for
    it: users choose the DNS servers, which must not hold the request threads. Each fetch checks again.
    """
    target = parse(url, https_only=https_only)
    if literal(target.host) is not None:
        addresses_of(target)
    elif resolve and _checks.acquire(blocking=False):
        try:
            addresses_of(target, seconds=CHECK_SECONDS)
        except Unreachable:
            pass
        finally:
            _checks.release()


@contextmanager
def get(
    url: str,
    *,
    max_bytes: int,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    https_only: bool = False,
    idle: float = IDLE_SECONDS,
    cancellation: Cancellation | None = None,
) -> Iterator[Answer]:
    """The response to a GET, after redirects, whatever its status; read its body from `chunks()`.

    `timeout` limits the whole exchange, `idle` a pause in it, both in seconds. A caller's header is sent to
    another host only if it cannot be a credential. Raises OutboundError; TooLarge before the first byte if
    Content-Length exceeds the limit.
    """
    deadline = Deadline(timeout, idle=idle)
    sent = {"Accept": "*/*", "User-Agent": USER_AGENT, **(headers or {}), "Accept-Encoding": "identity"}
    target = parse(url, https_only=https_only)
    hops: list[Mapping[str, str]] = []
    with deadline:
        if cancellation is not None:
            cancellation.attach(deadline)
        for _ in range(REDIRECTS + 1):
            response, connection = _exchange("GET", target, sent, None, deadline)
            try:
                location = response.headers.get("Location")
                if response.status not in REDIRECTING or not location:
                    yield _answer(response, target, hops, max_bytes, deadline)
                    return
                hops.append(response.headers)
            finally:
                response.close()
                connection.close()
            following = _followed(target, location, https_only=https_only)
            if following.origin != target.origin:
                sent = {name: value for name, value in sent.items() if name.lower() in SAFE_HEADERS}
                sent["Accept-Encoding"] = "identity"
            target = following
    raise Unusable(f"The address redirects more than {REDIRECTS} times")


def _followed(target: Target, location: str, *, https_only: bool) -> Target:
    try:
        address = urljoin(target.url, location)
    except ValueError:  # such as "http://["
        raise Unusable("The address redirects to something that is not an address") from None
    return parse(address, https_only=https_only)


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    *,
    https_only: bool = False,
) -> Posted:
    """The response to a POST; redirects are not followed. Raises OutboundError."""
    return _send("POST", url, body, headers, timeout, idle=timeout, https_only=https_only)


def is_worth_a_retry(status: int) -> bool:
    """Whether the same request may succeed later, by the status of its response."""
    return status >= 500 or status in (408, 425, 429)


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def put(
    url: str,
    body: Readable,
    *,
    size: int,
    headers: Mapping[str, str] | None = None,
    timeout: float,
    https_only: bool = False,
) -> Posted:
    """The response to a PUT of `size` bytes that are read as they are sent; otherwise as `post`."""
    sent = {**(headers or {}), "Content-Length": str(size)}
    return _send("PUT", url, body, sent, timeout, idle=IDLE_SECONDS, https_only=https_only)


def delete(url: str, *, timeout: float, https_only: bool = False) -> Posted:
    """The response to a DELETE; otherwise as `post`."""
    return _send("DELETE", url, None, None, timeout, idle=timeout, https_only=https_only)


def _send(
    method: str,
    url: str,
    body: bytes | Readable | None,
    headers: Mapping[str, str] | None,
    timeout: float,
    *,
    idle: float,
    https_only: bool,
) -> Posted:
    deadline = Deadline(timeout, idle=idle)
    sent = {"User-Agent": USER_AGENT, **(headers or {}), "Accept-Encoding": "identity"}
    target = parse(url, https_only=https_only)
    with deadline:
        response, connection = _exchange(method, target, sent, body, deadline)
        try:
            kept = b""
            with deadline.translated_errors():
                while len(kept) < MAX_ANSWER and (piece := response.read(MAX_ANSWER - len(kept))):
                    kept += piece
            return Posted(response.status, response.headers, kept)
        finally:
            response.close()
            connection.close()


# -- one exchange ------------------------------------------------------------------------------------
def _exchange(
    method: str,
    target: Target,
    headers: Mapping[str, str],
    body: Any,  # bytes | Readable | None: urllib3 wants less of a file than its types say
    deadline: Deadline,
) -> tuple[urllib3.BaseHTTPResponse, HTTPConnection]:
    """Send, and read up to the end of the headers. The caller closes both."""
    addresses = addresses_of(target, seconds=min(RESOLVE_SECONDS, deadline.left))
    connection = _connection(target, addresses, deadline)
    try:
        with deadline.translated_errors():
            connection.request(
                method, target.path, body=body, headers=headers, preload_content=False, decode_content=False
            )
            response = connection.getresponse()
    except BaseException:
        connection.close()
        raise
    return response, connection


def _connection(target: Target, addresses: list[Address], deadline: Deadline) -> HTTPConnection:
    if target.scheme == "https":
        return _PinnedTLS(target, addresses, deadline)
    return _Pinned(target, addresses, deadline)


class _Pins:
    """Connects to the checked addresses; the hostname stays for TLS and the Host header."""

    def pin(self, addresses: list[Address], deadline: Deadline) -> None:
        self._addresses, self._deadline = addresses, deadline

    def _new_conn(self) -> socket.socket:
        failure: OSError = OSError("no address")
        for address in self._addresses[:4]:
            try:
                seconds = min(CONNECT_SECONDS, self._deadline.left)
                sock = socket.create_connection((str(address), self.port), timeout=seconds)  # type: ignore[attr-defined]
            except OSError as exc:
                failure = exc
                continue
            sock.settimeout(self._deadline.idle_left)
            self._deadline.watch(sock)
            return sock
        raise failure


class _Pinned(_Pins, HTTPConnection):
    def __init__(self, target: Target, addresses: list[Address], deadline: Deadline) -> None:
        super().__init__(target.host, target.port, timeout=deadline.idle_left)
        self.pin(addresses, deadline)


class _PinnedTLS(_Pins, HTTPSConnection):
    def __init__(self, target: Target, addresses: list[Address], deadline: Deadline) -> None:
        super().__init__(target.host, target.port, timeout=deadline.idle_left, ssl_context=_trust())
        self.pin(addresses, deadline)


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """The system's CAs (an operator may have added one), and those that ship with Python."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _answer(
    response: urllib3.BaseHTTPResponse,
    target: Target,
    hops: list[Mapping[str, str]],
    max_bytes: int,
    deadline: Deadline,
) -> Answer:
    announced = whole_number(response.headers.get("Content-Length", ""))
    if announced is not None and announced > max_bytes:
        raise TooLarge(f"It has {announced} bytes; at most {max_bytes} are allowed")
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        # The decompressed size cannot be known in advance.
        raise Unusable("The other side answers with compressed content although none was asked for")

    def read() -> Iterator[bytes]:
        size = 0
        while True:
            with deadline.translated_errors():
                piece = response.read1(CHUNK_BYTES)
            if not piece:
                return
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(f"It has more than {max_bytes} bytes")
            yield piece

    return Answer(response.status, response.headers, target.url, hops, read)
