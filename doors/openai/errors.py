"""OpenAI's error format. Views below /v1 raise our own errors; the middleware rewrites them."""

from __future__ import annotations

import json
import re
from typing import Any

from django.http import HttpRequest, HttpResponse

from comfyserve.api.middleware import Middleware

PREFIX = "/v1/"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
INPUT_PATH = re.compile(r"^inputs\.(?:\d+\.)?")  # of one run, or of one of several


def body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAIErrorsMiddleware(Middleware):
    """Also covers rejections by the gate, the rate limit and the URL resolver."""

    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if response.status_code >= 400 and request.path_info.startswith(PREFIX) and not response.streaming:
            _rewrite(response)
        return response


def _rewrite(response: HttpResponse) -> None:
    try:
        ours = json.loads(response.content)
    except ValueError:
        return
    if not isinstance(ours, dict) or not isinstance(ours.get("error"), str):
        return
    details = ours.get("details") or []
    first = details[0] if details else {}
    message = "; ".join(INPUT_PATH.sub("", each["message"]) for each in details[:5]) or ours["message"]
    param = INPUT_PATH.sub("", first.get("field") or "") or None
    code = str(first.get("code") or ours["error"]).lower()
    shown = body(response.status_code, message, code=code, param=param)
    response.content = json.dumps(shown).encode()
    response.headers.pop("Content-Length", None)
