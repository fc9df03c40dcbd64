"""Submit a workflow, follow it live, and save its outputs. Needs `pip install requests`.

    python follow.py http://localhost:8000 TOKEN workflow.json

TOKEN is an access token of POST /auth/login, or an API key of POST /auth/keys. After a
disconnect it reconnects and resumes after the last event, so none is lost.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests


def events(url: str, *, headers: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, data) of each event until the execution has ended, however often the connection breaks."""
    last = ""
    while True:
        sent = {**headers, **({"Last-Event-ID": last} if last else {})}
        try:
            with requests.get(url, headers=sent, stream=True, timeout=(10, 60)) as answer:
                if answer.status_code == 204:
                    return
                answer.raise_for_status()
                fields: dict[str, str] = {}
                for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
                    name, _, value = line.partition(": ")
                    if line:
                        fields[name] = value
                        continue
                    last = fields.get("id", last)
                    if fields.get("event") == "end":
                        return
                    if "event" in fields:
                        yield fields["event"], json.loads(fields["data"])
                    fields = {}
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError, requests.Timeout):
            pass
        time.sleep(2)


def main(server: str, token: str, workflow: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    body = {"workflow": json.loads(Path(workflow).read_text())}
    answer = requests.post(f"{server}/workflows/execute", json=body, headers=headers, timeout=30)
    if not answer.ok:
        sys.exit(answer.text)
    execution_id = answer.json()["execution_id"]
    for name, data in events(f"{server}/workflows/{execution_id}/events", headers=headers):
        if name == "progress":
            print(f"  {data['percentage']:5.1f} %", flush=True)
        elif name == "output" and data.get("url"):
            content = requests.get(data["url"], timeout=60).content
            Path(data["filename"]).write_bytes(content)
            print(f"saved {data['filename']} ({len(content)} bytes)", flush=True)
        elif "message" in data:
            print(data["message"], flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
