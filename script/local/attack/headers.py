"""Ambiguous requests, and requests with forged origins."""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any

from script.local.attack.callers import Caller
from script.local.attack.canaries import own_picture
from script.local.attack.connections import connect
from script.local.attack.report import Report
from script.local.attack.victim import Victim

KIND = "headers and addresses"
EVIL = "attacker.example"
TRAVERSALS = (
    "/static/../../../../etc/passwd", "/static/..%2f..%2f..%2f..%2fetc%2fpasswd", "/static//etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/static/..%5c..%5cetc%5cpasswd",
    "/files/..%2f..%2fetc%2fpasswd",
    "/comfyui/view?filename=../../../../etc/passwd", "/comfyui/view?filename=/etc/passwd&type=input",
    "/files/%00", "/files/file_%0d%0aX-Injected:%20yes", "//attacker.example/", "/%2f/attacker.example",
    "/models/..%2f..%2fetc%2fpasswd", "/.env", "/.git/config", "/proc/self/environ",
)  # fmt: skip


class HeaderAttack:
    def __init__(self, nobody: Caller, attacker: Caller, victim: Victim, report: Report) -> None:
        self.nobody, self.attacker, self.victim, self.report = nobody, attacker, victim, report

    def run(self) -> None:
        for trick in (
            self._forged_host, self._overridden_method, self._victims_idempotency_key, self._forged_addresses,
            self._forged_identity, self._two_lengths, self._trailers, self._endless_trailers,
            self._traversals, self._huge_headers, self._injected, self._other_sites,
        ):  # fmt: skip
            trick()

    def _check(self, what: str, content: bytes) -> None:
        self.report.tried(KIND)
        found = self.victim.canaries.found_in(content)
        if found:
            self.report.leak(KIND, f"{what}: {found} is in the response")

    def _forged_host(self) -> None:
        """A URL built from it would send another user's browser to the attacker."""
        for name in ("Host", "X-Forwarded-Host", "X-Host", "Forwarded", "X-Original-URL", "X-Rewrite-URL"):
            value = {"Forwarded": f"host={EVIL}", "X-Original-URL": "/admin/", "X-Rewrite-URL": "/admin/"}
            for path in ("/auth/me", "/workflows/?limit=1", "/docs", "/"):
                answer = self.attacker.get(path, headers={name: value.get(name, EVIL)})
                self._check(f"{name} at {path}", answer.content)
                received = answer.content + json.dumps(dict(answer.headers)).encode()
                # With ALLOWED_HOSTS=* the operator accepts any Host: links are built from it.
                if EVIL.encode() in received and answer.status < 400 and name != "Host":
                    self.report.leak(KIND, f"{name}: the response of {path} contains {EVIL}")

    def _overridden_method(self) -> None:
        """A GET or POST that claims to be a DELETE, of the attacker's own file."""
        upload = {"file": ("a.png", own_picture(), "image/png")}
        file_id = self.attacker.must("POST", "/files/upload", files=upload)["file_id"]
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
            for method in ("GET", "POST"):
                self.attacker.ask(method, f"/files/{file_id}", headers={name: "DELETE"})
                self.report.tried(KIND)
        self.attacker.ask("GET", f"/files/{file_id}?_method=DELETE")
        if self.attacker.get(f"/files/{file_id}/info").status != 200:
            self.report.leak(KIND, "a method was overridden by a header")

    def _victims_idempotency_key(self) -> None:
        """It must not return the victim's response."""
        for caller in (self.nobody, self.attacker):
            answer = caller.post(
                "/workflows/execute",
                {"workflow": {}},
                headers={"Idempotency-Key": self.victim.idempotency_key},
            )
            self._check("the victim's Idempotency-Key", answer.content)
            if self.victim.ids["execution_id"].encode() in answer.content or answer.status == 200:
                self.report.leak(KIND, "the victim's Idempotency-Key returns the victim's response")

    def _forged_addresses(self) -> None:
        """Failed logins to one account from ever new addresses: at some point they must be rejected."""
        statuses = set()
        for number in range(40):
            address = f"203.0.113.{number}"
            names = ("X-Forwarded-For", "X_Forwarded_For", "X-Real-IP", "True-Client-IP", "Forwarded")
            headers = dict.fromkeys(names, address)
            body = {"email": f"{uuid.UUID(int=1)}@example.com", "password": "wrong password"}
            answer = self.nobody.ask("POST", "/auth/login", json=body, headers=headers, seconds=20)
            self.report.tried(KIND)
            statuses.add(answer.status)
            if answer.status == 429:
                return
        self.report.leak(KIND, f"40 wrong passwords from forged addresses got {statuses}")

    def _forged_identity(self) -> None:
        for headers in (
            {"X-User-Id": "1"}, {"X-Remote-User": self.victim.caller.username}, {"REMOTE_USER": "1"},
            {"X-Forwarded-User": "admin"}, {"Cookie": "sessionid=1"}, {"Authorization": "Bearer null"},
            {"Authorization": "Basic YWRtaW46YWRtaW4="}, {"Authorization": f"Bearer {_unsigned(1)}"},
            {"Authorization": f"Bearer {self.attacker.token[:-4]}AAAA"}, {"X-Forwarded-For": "127.0.0.1"},
        ):  # fmt: skip
            for path in ("/auth/me", "/workflows/", "/workers/", "/admin/"):
                answer = self.nobody.get(path, headers=headers)
                self._check(f"{headers} at {path}", answer.content)
                if 200 <= answer.status < 300:
                    self.report.leak(KIND, f"{path} is open to {list(headers)}")

    # -- raw requests --------------------------------------------------------------------------------
    def _two_lengths(self) -> None:
        """Request smuggling: a body for one server, a request for the next. At most one response may come."""
        inner = b"GET /health/liveness HTTP/1.1\r\nHost: localhost\r\n\r\n"
        length = b"Content-Length: %d\r\n" % (len(inner) + 5)
        chunked = b"Transfer-Encoding: chunked\r\n"
        for headers in (
            length + b"Content-Length: 5\r\n", b"Content-Length: 5\r\n" + length, length + chunked,
            chunked + length, b"Content-Length: 5\r\n" + chunked, b"Content-Length: +5\r\n",
            b"Content-Length: -1\r\n", b"Content-Length : 5\r\n", b"Transfer-Encoding: xchunked\r\n",
            b"Transfer-Encoding: chunked, identity\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
            b"Content-Length: 99999999999999999999\r\n",
        ):  # fmt: skip
            start = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            received = self._talk(start + headers + b"\r\n0\r\n\r\n" + inner)
            self._check(f"{headers!r}", received)
            answers = re.findall(rb"HTTP/1\.1 (\d\d\d)", received)
            if len(answers) > 1 or b"200" in answers:
                self.report.leak(KIND, f"{headers!r} got {answers}")

    def _trailers(self) -> None:
        """Headers after a chunked body, which no proxy has checked."""
        start = b"GET /auth/me HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        for trailer in (f"Authorization: Bearer {self.attacker.token}", "Host: x"):
            received = self._talk(start + trailer.encode() + b"\r\n\r\n")
            self._check("trailers", received)
            if not re.match(rb"HTTP/1\.1 401", received):
                self.report.leak(KIND, f"the trailer {trailer[:14]!r} got {received[:40]!r}")

    def _endless_trailers(self) -> None:
        """16 MiB of each kind: the connection must be closed long before."""
        start = (
            b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"
        )
        for endless in (b"0\r\n" + b"X: y\r\n" * 2_800_000, b"0\r\nX: " + b"y" * 2**24, b"2;" + b"y" * 2**24):
            received = self._talk(start + endless)
            self._check("endless trailers", received)
            if not re.match(rb"HTTP/1\.1 4", received):
                self.report.leak(KIND, f"{endless[:8]!r}… of 16 MiB got {received[:40]!r}")

    def _other_sites(self) -> None:
        """A page of another site may read no answer, show no page in a frame, and send no form."""
        for path in ("/auth/me", "/workflows/", "/comfyui/queue", "/v1/models", "/api/v2/jobs"):
            for origin in (f"https://{EVIL}", "null"):
                answer = self.attacker.get(path, headers={"Origin": origin})
                self._check(f"{path} for {origin}", answer.content)
                # The operator may have allowed every origin (CORS_ALLOWED_ORIGINS=*), but none with cookies.
                if "true" in answer.headers.get("Access-Control-Allow-Credentials", ""):
                    self.report.leak(KIND, f"{path} may be read by {origin} with cookies")
        for path in ("/admin/login/", "/apps/", "/docs", "/redoc", "/auth/me"):
            answer = self.nobody.get(path, headers={"Accept": "text/html"})
            self._check(f"frames of {path}", answer.content)
            policy = answer.headers.get("Content-Security-Policy", "")
            if (
                answer.status
                and answer.headers.get("X-Frame-Options") != "DENY"
                and "frame-anc" not in policy
            ):
                self.report.leak(KIND, f"{path} may be shown in a frame of another site")
        answer = self.nobody.ask("POST", "/admin/login/", data={"username": "a", "password": "b"})
        self._check("a form of another site", answer.content)
        if answer.status != 403:
            self.report.leak(KIND, f"a login without a token got {answer.status}")

    def _traversals(self) -> None:
        for path in TRAVERSALS:
            for token in ("", f"Authorization: Bearer {self.attacker.token}\r\n"):
                received = self._talk(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n".encode())
                self._check(path, received)
                if re.search(rb"(?im)^X-Injected:", received):
                    self.report.leak(KIND, f"{path}: a header was injected")
                if re.search(rb"HTTP/1\.1 5", received):
                    self.report.leak(KIND, f"{path} got {received[:40]!r}")
                if re.search(rb"(?im)^location: *(https?:)?//%s" % EVIL.encode(), received):
                    self.report.leak(KIND, f"{path} redirects to {EVIL}")

    def _huge_headers(self) -> None:
        """Must be rejected without side effects: the next request works."""
        for sent in (b"X: " + b"x" * 2_000_000, b"X: y\r\n" * 50_000, b"Cookie: " + b"a=b; " * 100_000):
            received = self._talk(b"GET /auth/me HTTP/1.1\r\nHost: localhost\r\n" + sent + b"\r\n\r\n")
            self._check("huge headers", received)
            if self.nobody.get("/health/liveness").status != 200:
                self.report.leak(KIND, "no response after huge headers")

    def _injected(self) -> None:
        """Bytes that are invalid in headers, in file names that are returned in headers."""
        for name in (
            'a"\r\nX-Injected: yes.png',
            "a\r\nX-Injected: yes",
            "../../x.png",
            "a\0b.png",
            "<script>.png",
        ):
            files = {"file": (name, own_picture(), "image/png")}
            uploaded = self.attacker.ask("POST", "/files/upload", files=files)
            self._check("names of files", uploaded.content)
            received: Any = uploaded.json()
            if uploaded.status >= 500:
                self.report.leak(KIND, f"an upload named {name!r} got {uploaded.status}")
            if uploaded.status < 300 and isinstance(received, dict):
                shown = self.attacker.get(f"/files/{received['file_id']}")
                if "X-Injected" in shown.headers or shown.status != 200:
                    self.report.leak(KIND, f"a file named {name!r} is returned with {dict(shown.headers)}")

    def _talk(self, sent: bytes) -> bytes:
        """Everything received until the server closes or is silent for a second."""
        connection = connect(self.nobody, seconds=1.0)
        if connection is None:
            return b""
        received = b""
        with connection:
            try:
                connection.sendall(sent)
            except OSError:
                pass  # it has closed: its response is still in the buffer
            try:
                while piece := connection.recv(65536):
                    received += piece
            except OSError:
                pass
        return received


def _unsigned(user_id: int) -> str:
    """A token with the algorithm `none`."""
    parts = ({"alg": "none", "typ": "JWT"}, {"user_id": user_id, "sub": str(user_id), "exp": 4102444800})
    encoded = [base64.urlsafe_b64encode(json.dumps(each).encode()).rstrip(b"=").decode() for each in parts]
    return ".".join([*encoded, ""])
