"""ComfyUI's shape of error: `{"error": {"type", "message", "details", "extra_info"}, "node_errors": {}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rest_framework.response import Response
from rest_framework.views import APIView

from comfyserve.api.errors import ApiError, Detail, as_api_error
from comfyserve.api.middleware import ErrorShapeMiddleware
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


class ComfyUIView(APIView):
    """A view of this door. Its shapes are ComfyUI's, and so not in our schema."""

    schema = None
    parser_classes = [AnyTypeJSONParser]

    def get_exception_handler(self) -> Any:
        return handle


def handle(exc: Exception, context: Mapping[str, Any]) -> Response | None:  # noqa: ARG001
    known = as_api_error(exc)
    if known is None:
        return None  # Django's handler500; the traceback goes to the log there
    status = 400 if known.status == 422 else known.status
    return Response(body(known), status=status, headers=dict(known.headers))


class ComfyUIErrorsMiddleware(ErrorShapeMiddleware):
    prefix = "/comfyui/"

    def reshaped(self, known: ApiError) -> dict[str, Any]:
        return body(known)


def body(known: ApiError) -> dict[str, Any]:
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
