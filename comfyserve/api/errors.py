"""The error format of the API, and the exceptions rendered in it.

    ApiError
    ├── ValidationFailed     400 validation_error       carries one Detail for each mistake
    ├── Unauthorized         401 unauthorized
    ├── Forbidden            403 forbidden
    ├── NotFound             404 not_found
    ├── RequestTimeout       408 request_timeout        the body arrived too slowly
    ├── Conflict             409 conflict
    ├── PayloadTooLarge      413 payload_too_large
    ├── Unprocessable        422 unprocessable_entity
    ├── LimitExceeded        429 rate_limit_exceeded    carries Retry-After
    └── Unavailable          503 service_unavailable    carries Retry-After

Domain modules raise these; views build no error bodies.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, JsonResponse, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.urls import Resolver404
from django.utils import timezone
from rest_framework import exceptions, status
from rest_framework.response import Response

from comfyserve.db import connections

from . import request_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detail:
    """One error: a stable code, a sentence, and the dotted path of the element it concerns."""

    code: str
    message: str
    field: str | None = None


class ApiError(Exception):
    status = 500
    error = "internal_error"

    def __init__(
        self, message: str, *, details: Iterable[Detail] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)
        self.headers = dict(headers or {})


class ValidationFailed(ApiError):
    status = 400
    error = "validation_error"

    def __init__(self, details: Iterable[Detail], message: str = "Invalid request data") -> None:
        super().__init__(message, details=details)

    @classmethod
    def of(cls, field: str, message: str, code: str = "INVALID_VALUE") -> ValidationFailed:
        return cls([Detail(code, message, field)])


class Unauthorized(ApiError):
    status = 401
    error = "unauthorized"


class Forbidden(ApiError):
    status = 403
    error = "forbidden"


class NotFound(ApiError):
    status = 404
    error = "not_found"


class RequestTimeout(ApiError):
    status = 408
    error = "request_timeout"


class Conflict(ApiError):
    status = 409
    error = "conflict"


class PayloadTooLarge(ApiError):
    status = 413
    error = "payload_too_large"


class Unprocessable(ApiError):
    status = 422
    error = "unprocessable_entity"


class LimitExceeded(ApiError):
    status = 429
    error = "rate_limit_exceeded"


class Unavailable(ApiError):
    status = 503
    error = "service_unavailable"

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message, headers={"Retry-After": str(retry_after)})


NAMES = {
    400: "validation_error",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    408: "request_timeout",
    409: "conflict",
    413: "payload_too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "service_unavailable",
}


def body(error: str, message: str, details: Iterable[Detail] = ()) -> dict[str, Any]:
    return {
        "error": error,
        "message": message,
        "details": [asdict(detail) for detail in details],
        "timestamp": timezone.now(),
        "request_id": request_ids.current(),
    }


def handle(exc: Exception, context: Mapping[str, Any]) -> Response | None:  # noqa: ARG001
    """DRF's exception handler: renders every exception of a view in the error format."""
    known = as_api_error(exc)
    if known is None:
        return None  # Django's handler500 below; the traceback goes to the log there
    return Response(
        body(known.error, known.message, known.details), status=known.status, headers=known.headers
    )


def response(request: HttpRequest, exc: Exception) -> JsonResponse:
    """The same for code outside REST framework: middleware, streams."""
    known = as_api_error(exc)
    if known is None:
        logger.error("internal error", exc_info=exc, extra={"action": "internal_error"})
        return handler500(request)
    answer = body(known.error, known.message, known.details)
    return JsonResponse(answer, status=known.status, headers=known.headers)


def as_api_error(exc: BaseException) -> ApiError | None:
    match exc:
        case ApiError():
            return exc
        case Http404() | Resolver404():
            return NotFound("Not found")
        case PermissionDenied():
            return Forbidden("You do not have permission to do this")
        case DataError():
            logger.warning("the database refused a value: %s", exc)
            return ValidationFailed([Detail("INVALID_VALUE", "A value is out of range")])
        case OperationalError() | InterfaceError():
            logger.error("database unavailable: %s", exc, extra={"action": "database_unavailable"})
            connections.prune_broken_connections()
            return Unavailable("The database is not available; try again shortly")
        case RequestDataTooBig():
            return PayloadTooLarge("The body is too large")
        case SuspiciousOperation() | BadRequest() | MultiPartParserError() | UnreadablePostError():
            return _bad_request(str(exc))
        case exceptions.ValidationError():
            return ValidationFailed(flatten(exc.detail, exc.get_codes()))
        case exceptions.APIException():
            return _from_drf(exc)
    return None


def _bad_request(message: str) -> ApiError:
    return ValidationFailed([Detail("PARSE_ERROR", message or "The request is malformed")])


def _from_drf(exc: exceptions.APIException) -> ApiError:
    known = ApiError(str(exc.detail))
    known.status = exc.status_code
    if isinstance(exc, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        known.status = status.HTTP_401_UNAUTHORIZED
        known.headers["WWW-Authenticate"] = "Bearer"
    known.error = NAMES.get(known.status, "error")
    if isinstance(exc, exceptions.UnsupportedMediaType) and "in request" in known.message:
        known.message += " Send JSON, with the header Content-Type: application/json"
    if isinstance(exc, exceptions.ParseError):
        known.details = [Detail("PARSE_ERROR", known.message, None)]
    return known


CODES = {
    "required": "REQUIRED_FIELD",
    "blank": "REQUIRED_FIELD",
    "null": "REQUIRED_FIELD",
    "empty": "REQUIRED_FIELD",
}


def flatten(detail: Any, codes: Any, path: str = "") -> list[Detail]:
    """Flattens DRF's nested error lists into details with dotted paths."""
    if isinstance(detail, dict):
        found: list[Detail] = []
        for key, value in detail.items():
            inner = path if key == "non_field_errors" else f"{path}.{key}".strip(".")
            found += flatten(value, codes[key], inner)
        return found
    if isinstance(detail, list):
        found = []
        for i, value in enumerate(detail):
            if isinstance(value, dict | list):
                found += flatten(value, codes[i], f"{path}.{i}".strip("."))
            else:
                found.append(_detail(str(value), str(codes[i]), path))
        return found
    return [_detail(str(detail), str(codes), path)]


def _detail(message: str, code: str, path: str) -> Detail:
    ours = CODES.get(code, code.upper() if code.isupper() else "INVALID_VALUE")
    if ours == "REQUIRED_FIELD" and path:
        message = f"Field '{path}' is required"
    return Detail(ours, message, path or None)


# -- what Django answers itself: unknown routes, crashes --------------------------------------------
def json_error(status_code: int, message: str, headers: Mapping[str, str] | None = None) -> JsonResponse:
    return JsonResponse(body(NAMES[status_code], message), status=status_code, headers=dict(headers or {}))


def handler400(request: HttpRequest, exception: Exception | None) -> JsonResponse:
    known = as_api_error(exception) if exception else None
    return response(request, known or _bad_request(""))


def handler403(request: HttpRequest, exception: Exception | None) -> JsonResponse:  # noqa: ARG001
    return json_error(403, "You do not have permission to do this")


def handler404(request: HttpRequest, exception: Exception | None) -> JsonResponse:  # noqa: ARG001
    return json_error(404, f"There is nothing at {request.path}")


def handler500(request: HttpRequest) -> JsonResponse:  # noqa: ARG001
    """Called by Django while the exception is being handled: an unavailable database is not a server
    error."""
    known = as_api_error(sys.exc_info()[1] or Exception())
    if isinstance(known, Unavailable):
        return JsonResponse(body(known.error, known.message), status=known.status, headers=known.headers)
    return json_error(500, "Something went wrong on our side; quote the request id when you report it")
