"""OpenAPI schema generation: what all operations have in common is defined here, once.

A view's method says what is its own with `describe` (or drf-spectacular's `extend_schema`); its docstring
is `Title: sentence.` The errors that follow from its form (a body, a path parameter, a login, an
idempotency key) and the headers of all responses are added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny

from .errors import NAMES
from .validation import refuse_extras

IDEMPOTENCY_KEY = "Idempotency-Key"
View = TypeVar("View", bound=Callable[..., Any])

MEANINGS = {
    400: "The request has errors; `details` has one entry for each",
    401: "Authentication is required, or the token is invalid or expired",
    403: "Not allowed",
    404: "Not found, or it belongs to another user",
    405: "The method is not available here; `Allow` lists those that are",
    406: "None of the media types in the `Accept` header is available",
    409: "Not possible in the current state",
    413: "The body is too large",
    415: "The media type of the body is not supported",
    416: "The `Range` is outside the file",
    422: "The `Idempotency-Key` was used for another request",
    429: "Too many requests, or a quota is used up; `Retry-After` says when to try again",
    500: "Internal error; quote the `request_id`",
    503: "A dependency is unavailable; `Retry-After` says when to retry",
}


class DetailSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="A stable code, such as REQUIRED_FIELD or INVALID_VALUE")
    message = serializers.CharField(help_text="A readable sentence")
    field = serializers.CharField(
        allow_null=True, help_text="Dotted path of the element, such as workflow.nodes.3.inputs.2.value"
    )


class ErrorSerializer(serializers.Serializer[Any]):
    error = serializers.ChoiceField(choices=sorted(set(NAMES.values())), help_text="The type of error")
    message = serializers.CharField(help_text="A readable sentence")
    details = DetailSerializer(many=True, help_text="All validation errors; empty for other errors")
    timestamp = serializers.DateTimeField(help_text="When it happened")
    request_id = serializers.CharField(
        allow_null=True, help_text="As in the header X-Request-ID; finds the request in the server's logs"
    )


def describe(
    request: Any,
    responses: Any,
    *,
    errors: Iterable[int] = (),
    parameters: Sequence[Any] = (),
    example: Any = None,
    answer: Any = None,
    **more: Any,
) -> Callable[[View], View]:
    """For a view's method: request and response shapes, and the errors that are the endpoint's own.

    `responses` is a serializer, or a mapping from status to one. `example` and `answer` are a request body
    and the body of its answer; a test checks that they fit the shapes. `parameters` has serializers of the
    query, or OpenApiParameters.

    What is not described is refused: parameters where there is no serializer of them, and a body where
    `request` is None. Addresses open to strangers (probes, links) take whatever their tools add.
    """
    shapes = dict(responses) if isinstance(responses, Mapping) else {200: responses}
    examples = [OpenApiExample("Request", value=example, request_only=True)] if example is not None else []
    if answer is not None:
        codes = [str(code) for code in shapes]
        examples.append(OpenApiExample("Response", value=answer, response_only=True, status_codes=codes))

    def decorate(method: View) -> View:
        method.own_errors = tuple(errors)  # type: ignore[attr-defined]
        extended = extend_schema(
            request=request, responses=shapes, parameters=list(parameters), examples=examples, **more
        )
        decorated: View = extended(method)
        return _strict(
            decorated, query=not any(isinstance(each, type) for each in parameters), body=not request
        )

    return decorate


def _strict(method: View, *, query: bool, body: bool) -> View:
    """Wraps `method`: rejects parameters or a body that it would silently ignore."""

    @wraps(method)
    def checked(view: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        if AllowAny not in view.permission_classes:
            refuse_extras(request, query=query, body=body)
        return method(view, request, *args, **kwargs)

    return checked  # type: ignore[return-value]


class Schema(AutoSchema):
    """drf-spectacular's schema of one operation, with our common parts."""

    def get_summary(self) -> str | None:
        return self._doc()[0] or None

    def get_description(self) -> str:  # type: ignore[override]
        return self._doc()[1]

    def get_override_parameters(self) -> list[Any]:
        found = list(super().get_override_parameters())
        if self._takes_key():
            about = (
                "The same key with the same request within a day gets the first answer again, "
                "marked `Idempotency-Replayed: true`, and nothing is done twice"
            )
            key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
            found.append(OpenApiParameter(IDEMPOTENCY_KEY, key, OpenApiParameter.HEADER, description=about))
        return found

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        responses: dict[str, Any] = super()._get_response_bodies(direction)
        for code in sorted(self._errors()):
            if str(code) not in responses:
                responses[str(code)] = self._error(code)
        return responses

    def _error(self, code: int) -> dict[str, Any]:
        described: dict[str, Any] = self._get_response_for_code(  # type: ignore[no-untyped-call]
            ErrorSerializer, str(code), media_types=["application/json"]
        )
        # The view's examples apply to its successful responses.
        described["content"]["application/json"].pop("examples", None)
        return {**described, "description": MEANINGS[code]}

    def _errors(self) -> set[int]:
        """What follows from the operation's signature, and what the view declares itself."""
        found = {400, 405, 406, 413, 415, 429, 500, 503, *getattr(self._handler(), "own_errors", ())}
        if self.view.authentication_classes:
            found.add(401)
        if "{" in self.path:
            found.add(404)
        if self._takes_key():
            found |= {409, 422}
        return found

    def _takes_key(self) -> bool:
        return bool(getattr(self._handler(), "takes_idempotency_key", False))

    def _handler(self) -> Any:
        return getattr(self.view, getattr(self.view, "action", None) or self.method.lower(), None)

    def _doc(self) -> tuple[str, str]:
        doc = (getattr(self._handler(), "__doc__", None) or "").strip()
        title, colon, rest = doc.partition(":")
        if not colon or "\n" in title:
            title, _, rest = doc.partition("\n")
        rest = "\n".join(line.strip() for line in rest.strip().splitlines())
        return title.strip().rstrip("."), rest[:1].upper() + rest[1:]


class Bearer(OpenApiAuthenticationExtension):
    target_class = "accounts.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:  # noqa: ARG002
        about = "An access token from /auth/login, or an API key from /auth/keys"
        return {"type": "http", "scheme": "bearer", "description": about}


HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-ID": {
        "description": "The id of the request: the caller's if it sent a valid one, else generated",
        "schema": {"type": "string"},
    },
    "X-RateLimit-Limit": {
        "description": "Requests in the window: the hourly one, or in a 429 the one that is full",
        "schema": {"type": "integer"},
    },
    "X-RateLimit-Remaining": {"description": "Requests left in the window", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {
        "description": "When the window ends, in seconds since 1970",
        "schema": {"type": "integer"},
    },
    "Retry-After": {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}},
}


def share(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A postprocessing hook of drf-spectacular: common headers and errors become shared components."""
    components = result.setdefault("components", {})
    errors = components["responses"] = {}
    components["headers"] = HEADERS
    for operation in (op for path in result["paths"].values() for op in path.values()):
        responses = operation["responses"]
        for code, response in responses.items():
            names = [name for name in HEADERS if name != "Retry-After" or code in ("429", "503")]
            refs = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
            response["description"] = response["description"] or "Done"
            response["headers"] = {**refs, **response.get("headers", {})}
            if response["description"] == MEANINGS.get(int(code)):
                errors[NAMES[int(code)]] = response
                responses[code] = {"$ref": f"#/components/responses/{NAMES[int(code)]}"}
    return result
