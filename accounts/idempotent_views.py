"""The `Idempotency-Key` header, for views whose work must not happen twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from rest_framework.response import Response

from accounts import idempotency
from accounts.authentication import AuthenticatedRequest
from accounts.idempotency import Answer
from comfyserve.api.errors import ValidationFailed
from comfyserve.api.rendering import rendered
from comfyserve.api.schema import IDEMPOTENCY_KEY

KEY = re.compile(r"[\x21-\x7e]{1,255}")
Rest = ParamSpec("Rest")


def run(
    request: AuthenticatedRequest,
    make: Callable[[], Response],
    *,
    check_replay: Callable[[Any], None] | None = None,
) -> Response:
    """`make()`, once for each key: later requests get its response again, marked `Idempotency-Replayed`.

    `check_replay` gets the response that is about to be replayed, and raises if it is no longer true.

    `make` does what may take long first, and calls `idempotency.begin_commit` before it writes: from there
    on it is inside a transaction. What must wait for the commit goes to `transaction.on_commit`; a
    `Prefer: wait` comes after this function.
    """
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return make()
    check_key(key)
    print_ = idempotency.fingerprint(
        method=str(request.method),
        path=f"{request.path.rstrip('/')}?{request.META.get('QUERY_STRING', '')}",
        body=request.data,
    )

    first: list[Response] = []

    def answer() -> Answer:
        first.append(make())
        return Answer(first[0].status_code, rendered(first[0].data).decode())

    given = idempotency.once(user=request.user, key=key, fingerprint=print_, make=answer)
    if not given.replayed:
        return first[0]
    shown = json.loads(given.text)
    if check_replay is not None:
        check_replay(shown)
    return Response(shown, status=given.status, headers={"Idempotency-Replayed": "true"})


def check_key(key: str) -> None:
    """ValidationFailed unless it can be an Idempotency-Key."""
    if not KEY.fullmatch(key):
        raise ValidationFailed.of(IDEMPOTENCY_KEY, "An Idempotency-Key has 1 to 255 visible ASCII characters")


def idempotent(
    method: Callable[Concatenate[Any, AuthenticatedRequest, Rest], Response],
) -> Callable[Concatenate[Any, AuthenticatedRequest, Rest], Response]:
    """For a view's method: wraps it in `run`, with the view's `check_replay` if it has one."""

    @wraps(method)
    def wrapped(
        view: Any, request: AuthenticatedRequest, /, *args: Rest.args, **kwargs: Rest.kwargs
    ) -> Response:
        def make() -> Response:
            return method(view, request, *args, **kwargs)

        return run(request, make, check_replay=getattr(view, "check_replay", None))

    vars(wrapped)["takes_idempotency_key"] = True  # read by the schema
    return wrapped
