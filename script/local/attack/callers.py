"""HTTP clients with time limits: the two accounts, and an anonymous one."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from script.local.console import UserError

TERMINAL = ("completed", "failed", "cancelled")
SECONDS = 30.0  # for one response
MAX_BYTES = 4 * 1024 * 1024  # bytes of a response that are read: streams have no end


class Answer:
    """Status 0: no response."""

    def __init__(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        self.status = status
        self.headers = headers
        self.content = content

    def json(self) -> Any:
        """The parsed body; None if it is not JSON."""
        try:
            return json.loads(self.content)
        except ValueError:
            return None


class Caller:
    """`who` is anonymous, attacker or victim. Rate-limited requests are retried."""

    def __init__(self, url: str, who: str, *, token: str = "") -> None:
        self.url = url.rstrip("/")
        self.who = who
        self.token = token
        self.username = ""
        self._session = requests.Session()
        self._session.trust_env = False
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    @property
    def host(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "localhost", parts.port or (443 if parts.scheme == "https" else 80)

    def ask(self, method: str, path: str, *, seconds: float = SECONDS, **options: Any) -> Answer:
        """The response. An endless one is cut off after `seconds` or MAX_BYTES."""
        for _ in range(20):
            answer = self._ask_once(method, path, seconds, options)
            wait = answer.headers.get("Retry-After", "")
            if answer.status != 429 or not wait.isdigit() or int(wait) > 90:
                return answer
            time.sleep(max(1, int(wait)))
        return answer

    def _ask_once(self, method: str, path: str, seconds: float, options: dict[str, Any]) -> Answer:
        end = time.monotonic() + seconds
        content = b""
        try:
            with self._session.request(
                method, self.url + path, timeout=seconds, stream=True, allow_redirects=False, **options
            ) as response:
                try:
                    for piece in response.iter_content(64 * 1024):
                        content += piece
                        is_stream = "event-stream" in response.headers.get("Content-Type", "")
                        if is_stream or len(content) > MAX_BYTES or time.monotonic() > end:
                            break
                except requests.RequestException:
                    pass  # a stream that was silent for long
                return Answer(response.status_code, response.headers, content)
        except (requests.RequestException, ValueError):
            return Answer(0, {}, b"")

    def get(self, path: str, **options: Any) -> Answer:
        return self.ask("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.ask("POST", path, json=body, **options)

    def must(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of a successful response; UserError otherwise."""
        answer = self.ask(method, path, **options)
        if not 200 <= answer.status < 300:
            text = answer.content[:300].decode(errors="replace")
            raise UserError(f"{method} {path} by the {self.who} got {answer.status or 'no answer'}: {text}")
        return answer.json()

    def end_of(self, execution_id: str, *, seconds: float) -> dict[str, Any]:
        """The result when it has ended, or as it is after `seconds`."""
        end = time.monotonic() + seconds
        while True:
            found = self.get(f"/workflows/{execution_id}").json()
            if isinstance(found, dict) and found.get("status") in TERMINAL:
                return found
            if time.monotonic() > end:
                return found if isinstance(found, dict) else {}
            time.sleep(0.1)


def log_in(url: str, who: str, credentials: str) -> Caller:
    """`credentials` are EMAIL:PASSWORD; empty registers a new account. UserError if that fails."""
    nobody = Caller(url, who)
    email, _, password = credentials.partition(":")
    if not credentials:
        name = f"{who}{secrets.token_hex(5)}"
        email, password = f"{name}@example.com", secrets.token_urlsafe(18)
        account = {"email": email, "username": name, "password": password}
        nobody.must("POST", "/auth/register", json=account)
    given = nobody.must("POST", "/auth/login", json={"email": email, "password": password})
    caller = Caller(url, who, token=given["access_token"])
    caller.username = caller.must("GET", "/auth/me")["username"]
    return caller
