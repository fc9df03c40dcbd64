"""Every route with every method: anonymously, and as the attacker with the victim's ids."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from typing import Any

from script.local.attack.callers import Answer, Caller
from script.local.attack.report import Report
from script.local.attack.victim import Victim

KIND = "routes with another user's ids"
NOBODY = "routes without an account"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
SECONDS = 2.0  # streams may be silent
# For the caller's own account, or public: 2xx is correct unless the response contains a secret.
NO_OBJECT = {"model_name", "path", "worker_name", "class_type", "folder", "kind"}
# ComfyUI answers 200 with one of these for missing objects.
EMPTY = ("/history/{prompt_id}", "/object_info/{class_type}", "/jobs/{job_id}/cancel")
NOTHING = (b"", b"{}", b'{"cancelled":false}')
# Names that each account has for itself: 2xx is correct unless the response contains the victim's value.
OWN_NAMES = ("/settings/{name}",)
# These affect only the caller's own account, and would end the attack: skipped.
OWN = ("/auth/logout", "/auth/webhook-secret/rotate", "/auth/password", "/models/cleanup", "/auth/register")
ID = re.compile(r"(^|_)(id|ids|execution|file|batch|app|key|prompt|user|username|owner|image|name)$")
WORKING = {"PATCH", "POST", "PUT", "DELETE"}


class RouteAttack:
    """`more_paths`: routes besides those in `/schema`, with {name} for a parameter."""

    def __init__(
        self, nobody: Caller, attacker: Caller, victim: Victim, report: Report, *, more_paths: list[str]
    ) -> None:
        self.nobody, self.attacker, self.victim, self.report = nobody, attacker, victim, report
        self.schema: dict[str, Any] = attacker.must("GET", "/schema", headers={"Accept": "application/json"})
        self.paths = sorted({*self.schema["paths"], *more_paths})

    def run(self, *, share: float = 1.0, seed: int = 0) -> None:
        """`share` below 1 tries only that part of the routes, chosen by `seed`."""
        count = max(1, round(share * len(self.paths)))
        for path in sorted(random.Random(seed).sample(self.paths, count)):
            for filled in self._filled(path):
                for method in METHODS:
                    self._as_nobody(method, path, filled)
                    self._as_attacker(method, path, filled)
        if share == 1.0:
            self._named_in_bodies()
        self._by_name()
        self._by_tools()

    def _filled(self, path: str) -> Iterator[str]:
        """The path with the victim's ids; of a file both the upload and the output."""
        values = {name: self.victim.ids.get(name, "x") for name in re.findall(r"\{(\w+)\}", path)}
        yield path.format(**values)
        if "file_id" in values:
            yield path.format(**{**values, "file_id": self.victim.ids["output_id"]})

    # -- verdicts ------------------------------------------------------------------------------------
    def _as_nobody(self, method: str, path: str, filled: str) -> None:
        for headers in ({}, {"Authorization": "Bearer csk_" + "0" * 43}):
            answer = self.nobody.ask(method, filled, headers=headers, seconds=SECONDS, **_body(method))
            self._judge(NOBODY, f"{method} {path}", answer)
            if answer.status < 300 and method in WORKING and "{" in path:
                self.report.leak(NOBODY, f"{method} {path} was answered with {answer.status}")

    def _as_attacker(self, method: str, path: str, filled: str) -> None:
        if path.rstrip("/") in OWN and method in WORKING:
            return
        answer = self.attacker.ask(method, filled, seconds=SECONDS, **_body(method))
        self._judge(KIND, f"{method} {path}", answer)
        names = set(re.findall(r"\{(\w+)\}", path))
        is_open = (
            method in ("OPTIONS", "TRACE")
            or path.endswith(OWN_NAMES)
            or (path.endswith(EMPTY) and answer.content in NOTHING)
        )
        if names - NO_OBJECT and 200 <= answer.status < 300 and not is_open:
            self.report.leak(KIND, f"{method} {path} was answered with {answer.status}")
        if path.startswith("/admin") and 200 <= answer.status < 300 and "login" not in path:
            self.report.leak(KIND, f"{method} {path} was answered with {answer.status}")

    def _judge(self, kind: str, what: str, answer: Answer) -> None:
        self.report.tried(kind)
        found = self.victim.canaries.found_in(answer.content)
        if found:
            self.report.leak(kind, f"{what}: {found} is in the response")
        if answer.status >= 500 and answer.status != 503:
            self.report.leak(kind, f"{what} got {answer.status}")
        if b"Traceback (most recent" in answer.content:
            self.report.leak(kind, f"{what}: the response contains a traceback")

    # -- ids in other places -------------------------------------------------------------------------
    def _named_in_bodies(self) -> None:
        """The victim's ids as values of each parameter and of each field of each body that could take one."""
        for path, methods in self.schema["paths"].items():
            for method, about in methods.items():
                if "{" in path or path.rstrip("/") in OWN or not isinstance(about, dict):
                    continue
                names = [each["name"] for each in about.get("parameters", []) if each.get("in") == "query"]
                for name in {*names, *self._fields(about)}:
                    if ID.search(name):
                        self._named(method.upper(), path, name)

    def _named(self, method: str, path: str, name: str) -> None:
        victim = self.victim
        for value in {*victim.ids.values(), victim.caller.username, victim.canaries.name}:
            for given in ({"params": {name: value}}, {"json": {name: value}}, {"json": {name: [value]}}):
                if method == "GET" and "json" in given:
                    continue
                answer = self.attacker.ask(method, path, seconds=SECONDS, **given)
                self._judge(KIND, f"{method} {path} with {name}", answer)

    def _fields(self, about: dict[str, Any]) -> set[str]:
        text = json.dumps(about.get("requestBody") or {})
        found: set[str] = set()
        for name in re.findall(r"#/components/schemas/(\w+)", text):
            found |= set(self.schema["components"]["schemas"].get(name, {}).get("properties", {}))
        return found

    def _by_name(self) -> None:
        """Doors that refer to files and executions in their own ways."""
        ids, name = self.victim.ids, self.victim.canaries.name
        loading = {"1": {"class_type": "LoadImage", "inputs": {"image": ids["file_id"]}}}
        asked: list[tuple[str, str, dict[str, Any]]] = [
            *(
                ("GET", f"/comfyui{api}/view", {"params": {"filename": file, "type": kind, "subfolder": sub}})
                for api in ("", "/api")
                for file in (ids["file_id"], ids["output_id"], f"{name}.png", f"{name}_00001_.png", "../x")
                for kind in ("input", "output", "temp")
                for sub in ("", "..", "comfyserve", f"{ids['execution_id']}.1")
            ),
            ("POST", "/comfyui/history", {"json": {"delete": [ids["execution_id"]]}}),
            ("POST", "/comfyui/queue", {"json": {"delete": [ids["execution_id"]]}}),
            ("POST", "/comfyui/interrupt", {"json": {"prompt_id": ids["execution_id"]}}),
            ("POST", "/comfyui/prompt", {"json": {"prompt": loading, "prompt_id": ids["execution_id"]}}),
            ("POST", "/workflows/execute", {"json": {"workflow": ids["file_id"]}}),
            ("POST", "/workflows/execute", {"json": {"workflow": ids["output_id"]}}),
            ("POST", "/v1/images/generations", {"json": {"model": ids["app"], "prompt": "x"}}),
            ("POST", "/api/v2/assets/from-hash", {"json": {"hash": ids.get("digest", ""), "file_path": "x"}}),
            ("POST", "/api/v2/jobs", {"json": {"workflow": loading, "id": ids["execution_id"]}}),
            *(("GET", f"/workflows/?{key}={value}", {}) for key in ("user", "q", "app") for value in "12"),
        ]
        for method, path, options in asked:
            for caller, kind in ((self.nobody, NOBODY), (self.attacker, KIND)):
                answer = caller.ask(method, path, seconds=SECONDS, **options)
                self._judge(kind, f"{method} {path} {json.dumps(options)[:150]}", answer)

    def _by_tools(self) -> None:
        """MCP: each tool with the victim's ids for each argument."""
        headers = {"Accept": "application/json, text/event-stream"}

        def call(method: str, params: dict[str, Any]) -> Answer:
            body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
            return self.attacker.post("/mcp", body, headers=headers, seconds=SECONDS)

        listed = call("tools/list", {})
        self._judge(KIND, "MCP tools/list", listed)
        for tool in _tools(listed):
            for name in tool.get("inputSchema", {}).get("properties", {}):
                for value in self.victim.ids.values():
                    answer = call("tools/call", {"name": tool["name"], "arguments": {name: value}})
                    self._judge(KIND, f"MCP {tool['name']} with {name}", answer)


def _tools(answer: Answer) -> list[dict[str, Any]]:
    """The tools in a JSON response, or in the first data line of a stream."""
    text = answer.content.decode(errors="replace")
    for line in [text, *(each[5:] for each in text.splitlines() if each.startswith("data:"))]:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "result" in found:
            return list(found["result"].get("tools", []))
    return []


def _body(method: str) -> dict[str, Any]:
    return {"json": {}} if method in WORKING else {}
