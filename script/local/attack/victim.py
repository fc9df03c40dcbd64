"""The second account: its objects, its secrets, and the check that everything is still unchanged."""

from __future__ import annotations

import hashlib
import itertools
import time
from typing import Any

from script.local.attack.callers import Caller
from script.local.attack.canaries import Canaries
from script.local.console import UserError

# These change by themselves: links are signed again, and keys record their use.
VOLATILE = ("url", "last_used_at", "updated_at", "thumbnail", "runs", "expires_at")


class Victim:
    """`ids` are values for the parameters of routes, by the parameter's name."""

    def __init__(self, caller: Caller, canaries: Canaries) -> None:
        self.caller = caller
        self.canaries = canaries
        self.ids: dict[str, str] = {}
        self.idempotency_key = f"of-the-victim-{canaries.word[-8:]}"
        self._seeds = itertools.count(time.time_ns() % 2**24)
        self._before: dict[str, Any] = {}

    def settle_in(self, *, seconds: float = 120) -> None:
        """Create one object of each kind. UserError if the installation cannot do even that."""
        word, ask = self.canaries.word, self.caller.must
        upload = {"file": (f"{self.canaries.name}.png", self.canaries.picture(), "image/png")}
        self.ids["file_id"] = ask("POST", "/files/upload", files=upload)["file_id"]
        body = {"workflow": self._own_workflow(), "metadata": {"note": word}}
        header = {"Idempotency-Key": self.idempotency_key}
        execution_id = ask("POST", "/workflows/execute", json=body, headers=header)["execution_id"]
        self.ids |= {"execution_id": execution_id, "prompt_id": execution_id, "delivery_id": "1"}
        self.ids["job_id"] = execution_id
        batch = {"workflow": self.colour(), "grid": {"1.color": [1, 2]}, "metadata": {"note": word}}
        self.ids["batch_id"] = str(self._batch(batch))
        app = {"name": f"app-{self.canaries.name}", "title": word, "workflow": self._own_workflow()}
        made = ask("POST", "/apps/", json=app)
        self.ids["app"] = f"{self.caller.username}/{made['name'].rpartition('/')[2]}"
        self.ids["name"] = "secret"
        ask("POST", "/comfyui/settings", json={"secret": word})
        key = ask("POST", "/auth/keys", json={"name": word})
        self.ids["key_id"] = str(key["id"])
        self.canaries.secrets += [key["key"], ask("GET", "/auth/webhook-secret")["secret"]]
        result = self.caller.end_of(execution_id, seconds=seconds)
        if result.get("status") != "completed":
            raise UserError(f"The victim's own workflow does not run: {result.get('error') or result}")
        self.ids["output_id"] = result["outputs"]["images"][0]["file_id"]
        self._add_digest()
        self._before = self._all()

    def _own_workflow(self) -> dict[str, Any]:
        """A workflow with secrets: a picture, a prompt and a name."""
        word = self.canaries.word
        return {
            "1": {"class_type": "LoadImage", "inputs": {"image": self.ids["file_id"]}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": word}},
            "5": {
                "class_type": "SaveImage",
                "inputs": {"images": ["1", 0], "filename_prefix": self.canaries.name},
            },
            "3": {"class_type": "PrimitiveString", "inputs": {"value": word}},
            "4": {"class_type": "PreviewAny", "inputs": {"source": ["3", 0]}},
        }

    def colour(self) -> dict[str, Any]:
        """A different picture each time, none of them secret."""
        size = {"width": 16, "height": 16, "batch_size": 1}
        return {
            "1": {"class_type": "EmptyImage", "inputs": {**size, "color": next(self._seeds) % 2**24}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "honest"}},
        }

    def _batch(self, body: dict[str, Any]) -> Any:
        return self.caller.must("POST", "/workflows/batch", json=body)["batch_id"]

    def _add_digest(self) -> None:
        """The hash by which the Comfy API names the file."""
        asset = self.caller.get(f"/api/v2/assets/{self.ids['file_id']}").json()
        if isinstance(asset, dict) and asset.get("hash"):
            self.ids["digest"] = asset["hash"]

    # -- final checks --------------------------------------------------------------------------------
    def _all(self) -> dict[str, Any]:
        ids = self.ids
        paths = [
            f"/workflows/{ids['execution_id']}", f"/files/{ids['file_id']}/info",
            f"/files/{ids['output_id']}/info", f"/apps/{ids['app']}", "/auth/keys", "/auth/webhook-secret",
            "/auth/me", "/comfyui/settings",
        ]  # fmt: skip
        found = {path: _steady(self.caller.get(path).json()) for path in paths}
        for name in ("file_id", "output_id"):
            content = self.caller.get(f"/files/{ids[name]}").content
            found[f"/files/{ids[name]}"] = hashlib.sha256(content).hexdigest()
        return found

    def changes(self) -> list[str]:
        """The victim's objects that have changed."""
        now = self._all()
        return [path for path, before in self._before.items() if now[path] != before]

    def wait_for_own(self, *, seconds: float) -> tuple[str, float]:
        """Run an ordinary execution: (final status, seconds)."""
        began = time.monotonic()
        answer = self.caller.post("/workflows/execute", {"workflow": self.colour()}).json()
        if not isinstance(answer, dict) or "execution_id" not in answer:
            return f"refused: {answer}", 0.0
        result = self.caller.end_of(answer["execution_id"], seconds=seconds)
        return str(result.get("status")), time.monotonic() - began


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _steady(each)
            for name, each in value.items()
            if not name.endswith(VOLATILE) and name not in VOLATILE
        }
    if isinstance(value, list):
        return [_steady(each) for each in value]
    return value
