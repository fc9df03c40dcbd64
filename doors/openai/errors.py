"""OpenAI's error format. Views below /v1 raise our own errors; `doors.error_shapes` rewrites them."""

from __future__ import annotations

import re
from typing import Any

from comfyserve.api.errors import ApiError

PREFIX = "/v1/"
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
INPUT_PATH = re.compile(r"^inputs\.(?:\d+\.)?")  # of one run, or of one of several


def body(status: int, message: str, *, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def reshaped(known: ApiError) -> dict[str, Any]:
    messages = [INPUT_PATH.sub("", each.message) for each in known.details[:5]]
    param, code = None, known.error
    if known.details:
        first = known.details[0]
        param, code = INPUT_PATH.sub("", first.field or "") or None, first.code or known.error
    return body(known.status, "; ".join(messages) or known.message, code=code.lower(), param=param)
