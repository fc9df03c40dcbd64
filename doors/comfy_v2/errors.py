"""The Comfy API's error format, `{"error": {"code", "message", "details"}}`, built from our own errors."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rest_framework.views import APIView

from comfyserve.api.error_format import ErrorFormat
from comfyserve.api.errors import ApiError, LimitExceeded, Unprocessable, ValidationFailed
from workflows.queue.submission import QueueFull


class ComfyError(ApiError):
    """An error with a code that only the Comfy API has."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error = status, code


class ComfyView(APIView):
    """Base view of this door. Its shapes are documented by the Comfy API, not in our schema."""

    schema = None

    def get_exception_handler(self) -> Any:
        return FORMAT.handle


def reshaped(known: ApiError) -> dict[str, Any]:
    if known.status == 429:
        known.error = "queue_full"
    return _render(known)[1]


def _render(known: ApiError) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, code = _status_and_code(known)
    headers = dict(known.headers)
    if status == 429:
        headers.setdefault("Retry-After", "5")
    error: dict[str, Any] = {"code": code, "message": _message(known)}
    if known.details:
        error["details"] = {"errors": [asdict(detail) for detail in known.details]}
    return status, {"error": error}, headers


def _status_and_code(known: ApiError) -> tuple[int, str]:
    match known:
        case ComfyError():
            return known.status, known.error
        case ValidationFailed():
            missing = {detail.code for detail in known.details} == {"FILE_NOT_FOUND"}
            return 422, "missing_asset" if missing else "invalid_workflow"
        case QueueFull() | LimitExceeded():
            return 429, "queue_full"
        case Unprocessable():
            return 422, "idempotency_key_reuse"
    return known.status, known.error


def _message(known: ApiError) -> str:
    """With the first error: the SDK shows nothing else."""
    if not known.details:
        return known.message
    first, more = known.details[0], len(known.details) - 1
    where = f"{first.field}: " if first.field else ""
    return f"{where}{first.message}" + (f" (and {more} more)" if more else "")


FORMAT = ErrorFormat(_render)
