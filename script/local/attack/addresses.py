"""Addresses that lead inside: as they are, and as redirects of a server of the attacker's.

Webhooks, inputs by address, downloads of models and destinations are tried. A server on loopback that nobody
may reach counts its requests.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from script.local.attack.callers import Answer, Caller
from script.local.attack.report import Report
from script.local.attack.victim import Victim

KIND = "addresses inside"
INSIDE = "127.0.0.1"
SETTLE_SECONDS = 60.0  # for downloads and webhooks
# Answers of a server that must be its error and none of ours: (status, headers).
ODD_ANSWERS: Mapping[str, tuple[int, dict[str, str]]] = {
    "length": (200, {"Content-Length": "\u00b2"}),
    "long-length": (200, {"Content-Length": "9" * 5000}),
    "range": (206, {"Content-Range": f"bytes 0-1/{'9' * 5000}"}),
    "retry": (503, {"Retry-After": "\u00b2"}),
}


class AddressAttack:
    """`receiver`: an address that the installation may connect to, for redirects; "" tries none."""

    def __init__(self, attacker: Caller, victim: Victim, report: Report, *, receiver: str) -> None:
        self.attacker, self.victim, self.report = attacker, victim, report
        self.receiver = receiver
        self._ids: dict[str, str] = {}  # what was tried -> its execution
        self._models: dict[str, str] = {}  # what was tried -> the model's name

    def run(self, *, only: frozenset[str] | None = None) -> None:
        """`only`: names of some of the addresses."""
        with ExitStack() as opened:
            reached: list[str] = []

            def reach(path: str) -> tuple[int, dict[str, str]]:
                reached.append(path)
                return 200, {}

            port = opened.enter_context(_serving(INSIDE, reach))
            spellings = {name: url for name, url in _spellings(port).items() if only is None or name in only}
            for name, url in spellings.items():
                self._try(name, url)
            if self.receiver:
                pages = {f"/to/{name}": (302, {"Location": url}) for name, url in spellings.items()}
                pages |= {"/to/loop": (302, {"Location": "/to/loop"})}
                pages |= {f"/odd/{name}": answer for name, answer in ODD_ANSWERS.items()}
                theirs = opened.enter_context(
                    _serving(self.receiver, lambda path: pages.get(path, (404, {})))
                )
                for path in pages:
                    self._try(path, f"http://{self.receiver}:{theirs}{path}")
            self._settle()
            for path in reached:
                self.report.leak(KIND, f"{path} was fetched from {INSIDE}")

    def _try(self, name: str, url: str) -> None:
        """One address in each place that takes one."""
        load = {
            "1": {"class_type": "LoadImage", "inputs": {"image": url}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        self._judge(f"{name} as an input", self.attacker.post("/workflows/execute", {"workflow": load}))
        body = {"workflow": self.victim.colour(), "webhook_url": url}
        self._judge(f"{name} as a webhook", self.attacker.post("/workflows/execute", body))
        model = f"attack-{secrets.token_hex(6)}.safetensors"
        query = {"download_url": url, "model_type": "checkpoint"}
        answer = self.attacker.ask("POST", f"/models/{model}/download", params=query)
        self._judge(f"{name} as a model", answer)
        if answer.status == 200:
            self._models[name] = model
        body = {"name": f"d{secrets.token_hex(6)}", "endpoint": url, "bucket": "bucket", "access_key": "a"}
        answer = self.attacker.post("/destinations/", {**body, "secret_key": "b"})
        self._judge(f"{name} as a destination", answer)
        if answer.status == 201 and "/odd/" not in name:
            self.report.leak(KIND, f"{name} was saved as a destination")

    def _judge(self, what: str, answer: Answer) -> None:
        self.report.tried(KIND)
        if answer.status == 0 or (answer.status >= 500 and answer.status != 503):
            self.report.leak(KIND, f"{what} got {answer.status or 'no response'}")
        accepted = answer.json()
        if answer.status == 200 and isinstance(accepted, dict) and "execution_id" in accepted:
            self._ids[what] = accepted["execution_id"]

    def _settle(self) -> None:
        """Wait for what was accepted. An internal error would be one that anybody can cause."""
        for what, execution_id in self._ids.items():
            result = self.attacker.end_of(execution_id, seconds=SETTLE_SECONDS)
            if "internal error" in str(result.get("error")):
                self.report.leak(KIND, f"{what}: {result['error']}")
        end = time.monotonic() + SETTLE_SECONDS
        for what, model in self._models.items():
            while (found := self._download(model)).get("is_downloading") and time.monotonic() < end:
                time.sleep(0.2)
            if "nternal error" in str(found.get("error")):
                self.report.leak(KIND, f"{what} as a model: {found['error']}")

    def _download(self, model: str) -> Mapping[str, object]:
        found = self.attacker.get(f"/models/{model}/download-progress").json()
        return found if isinstance(found, dict) else {}


def _spellings(port: int) -> dict[str, str]:
    """Addresses of the server inside, of metadata services, and of things that are no web servers."""
    hosts = {
        "loopback": INSIDE, "name": "localhost", "v6": "[::1]", "mapped": f"[::ffff:{INSIDE}]",
        "mapped-hex": "[::ffff:7f00:1]", "compatible": f"[::{INSIDE}]", "translated": f"[::ffff:0:{INSIDE}]",
        "nat64": "[64:ff9b::7f00:1]", "nat64-local": "[64:ff9b:1::7f00:1]", "6to4": "[2002:7f00:1::]",
        "zone": "[fe80::1%25lo]", "loopback-zone": "[::1%25lo]", "decimal": "2130706433",
        "octal": "0177.0.0.1", "hex": "0x7f000001", "short": "127.1", "zero": "0",
        "any": "0.0.0.0", "any6": "[::]",
        "full-width": "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "dots": "127\u30020\u30020\u30021",
        "dot": f"{INSIDE}.", "user": f"example.com@{INSIDE}", "backslash": f"example.com\\@{INSIDE}",
    }  # fmt: skip
    return {name: f"http://{host}:{port}/{name}" for name, host in hosts.items()} | {
        "metadata": "http://169.254.169.254/latest/meta-data/", "metadata6": "http://[fd00:ec2::254]/",
        "nat64-metadata": "http://[64:ff9b::a9fe:a9fe]/", "file": "file:///etc/passwd",
        "gopher": f"gopher://{INSIDE}:{port}/gopher", "relative": f"//{INSIDE}:{port}/relative",
        "no-address": "http://[", "no-port": f"http://{INSIDE}:99999/", "tab": f"ht\ttp://{INSIDE}:{port}/tab",
    }  # fmt: skip


@contextmanager
def _serving(address: str, answer: Callable[[str], tuple[int, dict[str, str]]]) -> Iterator[int]:
    """A server whose responses are `answer(path)`: (status, headers). Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers = answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(
                    name, value.encode("utf-8").decode("latin-1") if name == "Location" else value
                )
            self.end_headers()

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
