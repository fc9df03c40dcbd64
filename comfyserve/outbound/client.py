"""The guarded HTTP client: every request to a user-supplied URL goes through here.

The name is resolved once, each address is checked, and the connection goes to a checked address,
never to the result of a second lookup. Each redirect is checked in the same way. Size and time are
limited. Proxies of the environment are not used: they would resolve the name themselves.

    OutboundError            `str()` is a sentence for the user, without internal addresses
    ├── Refused              the address itself is not acceptable: an error of the caller
    ├── Unreachable          no connection, or it was lost; a retry may help
    ├── TookTooLong          deadline exceeded; a retry may help
    ├── TooLarge             more bytes than the limit
    └── Unusable             the response is unusable: endless redirects, compressed, malformed
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import certifi
import idna
import urllib3
from django.conf import settings
from urllib3.connection import HTTPConnection, HTTPSConnection

from . import dns
from .public_addresses import Address, Allowed, is_public

USER_AGENT = "ComfyServe"
CONNECT_SECONDS = 10.0
RESOLVE_SECONDS = 5.0
IDLE_SECONDS = 30.0  # of inactivity, unless the caller overrides it
REDIRECTS = 5
MAX_URL = 8192  # characters
MAX_ANSWER = 64 * 1024  # bytes kept of the response to a POST
PIECE = 256 * 1024
REDIRECTING = (301, 302, 303, 307, 308)
# Headers that may follow a redirect to another host; all others might be credentials.
HARMLESS = {"accept", "accept-language", "user-agent", "range", "if-range", "if-none-match"}
DEFAULT_PORTS = {"http": 80, "https": 443}


class OutboundError(Exception):
    @property
    def message(self) -> str:
        return str(self)


class Refused(OutboundError):
    pass


class Unreachable(OutboundError):
    pass


class TookTooLong(OutboundError):
    pass


class TooLarge(OutboundError):
    pass


class Unusable(OutboundError):
    pass


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


class Cancellation:
    """Cancels the `get` it is passed to, from any thread, whatever that is blocked on; it raises
    TookTooLong."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made = False
        self._deadline: _Deadline | None = None

    def make(self) -> None:
        with self._lock:
            self._made = True
            if self._deadline is not None:
                self._deadline.cut()

    def attach(self, deadline: _Deadline) -> None:
        with self._lock:
            self._deadline = deadline
            if self._made:
                deadline.cut()


@dataclass(frozen=True)
class Posted:
    status: int
    headers: Mapping[str, str]
    body: bytes  # the first MAX_ANSWER bytes


# -- the public functions ----------------------------------------------------------------------------
def check(url: str, *, https_only: bool = False, resolve: bool = True) -> None:
    """Refused if the URL could never be fetched. A name that does not resolve now is accepted: it may later.

    Without `resolve` only the text is checked, and DNS is not queried.
    """
    target = parse(url, https_only=https_only)
    literal = _literal(target.host)
    if literal is not None or resolve:
        try:
            addresses_of(target)
        except Unreachable:
            pass


@contextmanager
def get(
    url: str,
    *,
    max_bytes: int,
    timeout: float,
    headers: Mapping[str, str] | None = None,
    https_only: bool = False,
    idle: float = IDLE_SECONDS,
    cut: Cancellation | None = None,
) -> Iterator[Answer]:
    """The response to a GET, after redirects, whatever its status; read its body from `chunks()`.

    `timeout` limits the whole exchange, `idle` a pause in it, both in seconds. A caller's header is sent to
    another host only if it cannot be a credential. Raises OutboundError; TooLarge before the first byte if
    Content-Length exceeds the limit.
    """
    deadline = _Deadline(timeout, idle=idle)
    sent = {"Accept": "*/*", "User-Agent": USER_AGENT, **(headers or {}), "Accept-Encoding": "identity"}
    target = parse(url, https_only=https_only)
    hops: list[Mapping[str, str]] = []
    with deadline:
        if cut is not None:
            cut.attach(deadline)
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
            following = parse(urljoin(target.url, location), https_only=https_only)
            if following.origin != target.origin:
                sent = {name: value for name, value in sent.items() if name.lower() in HARMLESS}
                sent["Accept-Encoding"] = "identity"
            target = following
    raise Unusable(f"The address redirects more than {REDIRECTS} times")


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    timeout: float = 10.0,
    *,
    https_only: bool = False,
) -> Posted:
    """The response to a POST; redirects are not followed. Raises OutboundError."""
    deadline = _Deadline(timeout, idle=timeout)
    sent = {"User-Agent": USER_AGENT, **(headers or {}), "Accept-Encoding": "identity"}
    target = parse(url, https_only=https_only)
    with deadline:
        response, connection = _exchange("POST", target, sent, body, deadline)
        try:
            kept = b""
            with deadline.explained():
                while len(kept) < MAX_ANSWER and (piece := response.read(MAX_ANSWER - len(kept))):
                    kept += piece
            return Posted(response.status, response.headers, kept)
        finally:
            response.close()
            connection.close()


# -- addresses ---------------------------------------------------------------------------------------
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


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


@lru_cache(maxsize=8)
def _allowed(entries: tuple[str, ...]) -> Allowed:
    return Allowed(entries)


def addresses_of(target: Target, *, seconds: float | None = None) -> list[Address]:
    """Allowed addresses, in the resolver's order. Refused if the name resolves, but to none of them."""
    try:
        known = dns.addresses_of(target.host, target.port, seconds=seconds or RESOLVE_SECONDS)
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


# -- time --------------------------------------------------------------------------------------------
class _Deadline:
    """Aborts an exchange at its deadline, whatever it is blocked on.

    Socket timeouts restart with every byte; so the connection is closed from another thread.
    """

    def __init__(self, seconds: float, *, idle: float) -> None:
        self._ends = time.monotonic() + seconds
        self._idle = idle
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True
        self.over = False

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._release()

    @property
    def left(self) -> float:
        return max(0.01, self._ends - time.monotonic())

    @property
    def pause(self) -> float:
        """Seconds until the next byte must arrive."""
        return min(self._idle, self.left)

    def watch(self, sock: socket.socket) -> None:
        """Our own handle on the connection: TLS detaches the socket object."""
        self._release()
        with self._lock:
            self._handle = sock.dup()
        if self.over:
            self.cut()

    def cut(self) -> None:
        self.over = True
        with self._lock:
            if self._handle is not None:
                try:
                    self._handle.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed already

    def _release(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Library exceptions mapped to ours."""
        try:
            yield
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as exc:
            if self.over or time.monotonic() >= self._ends:
                raise TookTooLong("The other side took too long") from exc
            if isinstance(exc, TimeoutError | urllib3.exceptions.TimeoutError):
                raise TookTooLong("The other side stopped answering") from exc
            if isinstance(exc, ssl.SSLError | urllib3.exceptions.SSLError):
                raise Unreachable("The other side's certificate is not valid") from exc
            raise Unreachable("The connection could not be made, or broke") from exc
        if self.over:
            raise TookTooLong("The other side took too long")


# -- one exchange ------------------------------------------------------------------------------------
def _exchange(
    method: str, target: Target, headers: Mapping[str, str], body: bytes | None, deadline: _Deadline
) -> tuple[urllib3.BaseHTTPResponse, HTTPConnection]:
    """Send, and read up to the end of the headers. The caller closes both."""
    addresses = addresses_of(target, seconds=min(RESOLVE_SECONDS, deadline.left))
    connection = _connection(target, addresses, deadline)
    try:
        with deadline.explained():
            connection.request(
                method, target.path, body=body, headers=headers, preload_content=False, decode_content=False
            )
            response = connection.getresponse()
    except BaseException:
        connection.close()
        raise
    return response, connection


def _connection(target: Target, addresses: list[Address], deadline: _Deadline) -> HTTPConnection:
    if target.scheme == "https":
        return _PinnedTLS(target, addresses, deadline)
    return _Pinned(target, addresses, deadline)


class _Pins:
    """Connects to the checked addresses; the hostname stays for TLS and the Host header."""

    def pin(self, addresses: list[Address], deadline: _Deadline) -> None:
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
            sock.settimeout(self._deadline.pause)
            self._deadline.watch(sock)
            return sock
        raise failure


class _Pinned(_Pins, HTTPConnection):
    def __init__(self, target: Target, addresses: list[Address], deadline: _Deadline) -> None:
        super().__init__(target.host, target.port, timeout=deadline.pause)
        self.pin(addresses, deadline)


class _PinnedTLS(_Pins, HTTPSConnection):
    def __init__(self, target: Target, addresses: list[Address], deadline: _Deadline) -> None:
        super().__init__(target.host, target.port, timeout=deadline.pause, ssl_context=_trust())
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
    deadline: _Deadline,
) -> Answer:
    told = response.headers.get("Content-Length", "")
    if told.isdigit() and int(told) > max_bytes:
        raise TooLarge(f"It has {int(told)} bytes; at most {max_bytes} are allowed")
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity"):
        # The decompressed size cannot be known in advance.
        raise Unusable("The other side answers with compressed content although none was asked for")

    def read() -> Iterator[bytes]:
        size = 0
        while True:
            with deadline.explained():
                piece = response.read1(PIECE)
            if not piece:
                return
            size += len(piece)
            if size > max_bytes:
                raise TooLarge(f"It has more than {max_bytes} bytes")
            yield piece

    return Answer(response.status, response.headers, target.url, hops, read)
