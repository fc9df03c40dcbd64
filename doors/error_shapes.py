"""Errors below a door's paths, in the format of its API.

Including those that no view raises: of the gate, the rate limit and the URL resolver.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse

from comfyserve.api.errors import ApiError, Detail
from comfyserve.api.middleware import Middleware
from doors.comfy_v2.errors import reshaped as comfy_v2
from doors.comfyui.errors import reshaped as comfyui
from doors.openai.errors import PREFIX as OPENAI
from doors.openai.errors import reshaped as openai

Reshape = Callable[[ApiError], dict[str, Any]]  # the body in the other API's format
DOORS: dict[str, Reshape] = {OPENAI: openai, "/comfyui/": comfyui, "/api/v2/": comfy_v2}


class DoorErrorsMiddleware(Middleware):
    def after(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        if response.status_code >= 400 and not response.streaming:
            for prefix, reshape in DOORS.items():
                if request.path_info.startswith(prefix):
                    _rewrite(response, reshape)
        return response


def _rewrite(response: HttpResponse, reshape: Reshape) -> None:
    try:
        ours = json.loads(response.content)
    except ValueError:
        return
    if not isinstance(ours, dict) or not isinstance(ours.get("error"), str) or "request_id" not in ours:
        return  # it is in that format already
    details = ours.get("details") or []
    known = ApiError(ours["message"], details=[Detail(**each) for each in details])
    known.status, known.error = response.status_code, ours["error"]
    response.content = json.dumps(reshape(known)).encode()
    response.headers.pop("Content-Length", None)
