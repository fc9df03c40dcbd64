"""OpenAI's error format. Views below /v1 raise our own errors; the middleware rewrites them."""

from __future__ import annotations

import re
from typing import Any

from comfyserve.api.middleware import ErrorShapeMiddleware

PREFIX = "/v1/"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
INPUT_PATH = re.compile(r"^inputs\.(?:\d+\.)?")  # of one run, or of one of several


def body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAIErrorsMiddleware(ErrorShapeMiddleware):
    prefix = PREFIX

    def reshaped(self, status: int, ours: dict[str, Any]) -> dict[str, Any]:
        details = ours.get("details") or []
        first = details[0] if details else {}
        message = "; ".join(INPUT_PATH.sub("", each["message"]) for each in details[:5]) or ours["message"]
        param = INPUT_PATH.sub("", first.get("field") or "") or None
        return body(status, message, code=str(first.get("code") or ours["error"]).lower(), param=param)
