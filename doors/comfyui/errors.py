"""ComfyUI's shape of error: `{"error": {"type", "message", "details", "extra_info"}, "node_errors": {}}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rest_framework.views import APIView

from comfyserve.api.error_format import ErrorFormat
from comfyserve.api.errors import ApiError, Detail
from comfyserve.api.parsers import StrictJSONParser

NODE = re.compile(r"^workflow(?:\.prompt)?\.([^.]+)")


class PromptRefused(ApiError):
    """A 400 with one of ComfyUI's own error types."""

    status = 400

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.error = kind


class AnyTypeJSONParser(StrictJSONParser):
    """Parses JSON whatever the Content-Type, as ComfyUI does; its own examples send it as a form."""

    media_type = "*/*"


def reshaped(known: ApiError) -> dict[str, Any]:
    nodes = _by_node(known.details)
    kind = "prompt_outputs_failed_validation" if nodes else known.error
    error = {
        "type": kind,
        "message": known.message,
        "details": "\n".join(map(_sentence, known.details)),
        "extra_info": {},
    }
    return {"error": error, "node_errors": nodes}


def _sentence(detail: Detail) -> str:
    """The message, preceded by the path if it does not name it."""
    if not detail.field or detail.field in detail.message:
        return detail.message
    return f"{detail.field}: {detail.message}"


def _by_node(details: Sequence[Detail]) -> dict[str, Any]:
    nodes: dict[str, Any] = {}
    for detail in details:
        found = NODE.search(detail.field or "")
        if found is None:
            continue
        node = nodes.setdefault(found[1], {"errors": [], "dependent_outputs": [], "class_type": ""})
        node["errors"].append(
            {
                "type": detail.code.lower(),
                "message": detail.message,
                "details": detail.field,
                "extra_info": {"input_name": (detail.field or "").rpartition(".")[2]},
            }
        )
    return nodes


def _render(known: ApiError) -> tuple[int, dict[str, Any], dict[str, str]]:
    return 400 if known.status == 422 else known.status, reshaped(known), dict(known.headers)


FORMAT = ErrorFormat(_render)


class ComfyUIView(APIView):
    """A view of this door. Its shapes are ComfyUI's, and so not in our schema."""

    schema = None
    parser_classes = [AnyTypeJSONParser]
    error_format = FORMAT

    def get_exception_handler(self) -> Any:
        return self.error_format.handle
