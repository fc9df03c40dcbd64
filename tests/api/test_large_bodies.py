"""A body that is too large, sent completely before the response is read, as most clients do."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

TOO_LARGE = 10 * 1024 * 1024 + 1


def test_the_refusal_can_be_read(stack: Any) -> None:
    person = stack.person()
    connection = http.client.HTTPConnection(urlsplit(stack.url).netloc, timeout=20)
    headers = {
        "Content-Type": "application/json",
        "Authorization": person.session.headers["Authorization"],
    }
    connection.request("POST", "/workflows/execute", b" " * TOO_LARGE, headers)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    assert (answer.status, body["error"]) == (413, "payload_too_large")
    assert "/files/upload" in body["message"]
