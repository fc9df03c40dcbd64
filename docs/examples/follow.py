"""Submit a workflow, follow it live, and save its outputs. Needs `pip install requests`.

    python follow.py http://localhost:8000 TOKEN workflow.json

TOKEN is an access token of POST /auth/login, or an API key of POST /auth/keys. One request does
it all; after a disconnect another one resumes after the last event, so none is lost.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests


def run(server: str, token: str, workflow: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of each event until `end`, which has the result, however often the connection breaks."""
    # The key lets a submission be repeated whose response was lost.
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "text/event-stream",
        "Idempotency-Key": uuid.uuid4().hex,
    }
    method, path, body = "POST", "/workflows/execute", {"workflow": workflow}
    while True:
        url = f"{server}{path}?include=data"
        try:
            with requests.request(
                method, url, json=body, headers=headers, stream=True, timeout=(10, 60)
            ) as answer:
                if not answer.ok:
                    sys.exit(answer.text)
                for fields in events(answer):
                    name, data = fields["event"], json.loads(fields["data"])
                    yield name, data
                    if name == "end":
                        return
                    if name == "accepted":
                        method, path, body = "GET", f"/workflows/{data['execution_id']}/events", None
                    if "id" in fields:
                        headers["Last-Event-ID"] = fields["id"]
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout):
            pass
        time.sleep(2)


def events(answer: requests.Response) -> Iterator[dict[str, str]]:
    """The fields of each event: `event`, `data`, perhaps `id`."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=None, decode_unicode=True):
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
            continue
        if "event" in fields:
            yield fields
        fields = {}


def save(output: dict[str, Any]) -> None:
    if not output.get("url"):
        return  # a text
    encoded = output["data"]  # null if the file is large
    content = base64.b64decode(encoded) if encoded else requests.get(output["url"], timeout=60).content
    Path(output["filename"]).write_bytes(content)
    print(f"saved {output['filename']} ({len(content)} bytes)", flush=True)


def main(server: str, token: str, workflow: str) -> None:
    for name, data in run(server, token, json.loads(Path(workflow).read_text())):
        if name == "progress":
            print(f"  {data['percentage']:5.1f} %", flush=True)
        elif name == "end":
            for outputs in data["outputs"].values():
                for output in outputs:
                    save(output)
        elif name != "output" and "message" in data:
            print(data["message"], flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
