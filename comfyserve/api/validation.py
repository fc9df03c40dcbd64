"""Validation of input against a serializer: a body, or query parameters.

Unknown fields are rejected, so that a misspelt one is not silently ignored. A serializer may
have `also_called`, a mapping from names that other APIs use to ours, and `takes_any` where tools add
parameters of their own (links, streams).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from django.http import QueryDict
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer, Serializer
from rest_framework.utils.serializer_helpers import BindingDict

from comfyserve.near_names import did_you_mean, near

from .errors import Detail, ValidationFailed, flatten

MAX_UNKNOWN = 20  # unknown fields reported in one response


def checked(kind: type[BaseSerializer[Any]], data: Any) -> dict[str, Any]:
    """The values by name, with defaults. ValidationFailed with all errors.

    Of a parameter given twice the last one counts. An empty one is an error, not an absent one.
    """
    # As a plain dict: REST framework treats an empty parameter of a QueryDict as absent.
    given = data.dict() if isinstance(data, QueryDict) else data
    serializer = kind(data=given)
    if isinstance(serializer, Serializer):
        vars(serializer)["fields"] = _fields(type(serializer))
    mistakes: list[Detail] = []
    if not serializer.is_valid():
        mistakes = flatten(serializer.errors, _codes(serializer.errors))
    what = "parameter" if isinstance(data, QueryDict) else "field"
    reported = {(detail.code, detail.field) for detail in mistakes}  # by a serializer itself
    mistakes += [
        detail
        for detail in _unknown_in(serializer, given, what=what)
        if (detail.code, detail.field) not in reported
    ]
    if mistakes:
        raise ValidationFailed(mistakes)
    return dict(serializer.validated_data)


@lru_cache(maxsize=256)
def _fields(kind: type[Serializer[Any]]) -> BindingDict:
    """The bound fields of a serializer, which REST framework would copy for each instance: that costs more
    than the validation. They are not changed by validating, so threads may share them.
    """
    return kind().fields


def _unknown_in(shape: Any, given: Any, *, what: str, path: str = "") -> list[Detail]:
    """The unknown fields of `given` and of the objects inside it for which `shape` has a serializer."""
    inner = getattr(shape, "child", None)
    if inner is not None and isinstance(given, list):
        each = [_unknown_in(inner, item, what=what, path=f"{path}{at}.") for at, item in enumerate(given)]
        return [detail for details in each for detail in details][:MAX_UNKNOWN]
    if not isinstance(shape, Serializer) or not isinstance(given, Mapping):
        return []
    found: list[Detail] = []
    if not getattr(shape, "takes_any", False):
        also_called = getattr(shape, "also_called", {})
        found = unknown(given, shape.fields, what=what, also_called=also_called, path=path)
    for name, field in shape.fields.items():
        found += _unknown_in(field, given.get(name), what=what, path=f"{path}{name}.")
    return found


def unknown(
    names: Iterable[str], known: Iterable[str], *, what: str = "field", also_called: Mapping[str, str],
    path: str = "",
) -> list[Detail]:  # fmt: skip
    """A detail for each unknown one of `names`, with suggestions. `path` is prepended, including its dot."""
    known = list(known)
    found = [name for name in names if name not in known][:MAX_UNKNOWN]
    return [
        _unknown(f"{path}{name}", f"There is no {what} '{name[:100]}'{_suggestion(name, known, also_called)}")
        for name in found
    ]


def _unknown(name: str, message: str) -> Detail:
    return Detail("UNKNOWN_FIELD", message, name[:200])


def _suggestion(name: str, known: list[str], also_called: Mapping[str, str]) -> str:
    alias = also_called.get(name)
    return did_you_mean([alias] if alias else near(name, known))


def refuse_extras(request: Request, *, query: bool, body: bool) -> None:
    """ValidationFailed for parameters and JSON fields sent to an endpoint that takes none."""
    mistakes: list[Detail] = []
    if query:
        names = list(request.query_params)[:MAX_UNKNOWN]
        mistakes += [_unknown(name, f"There is no parameter '{name[:100]}' here") for name in names]
    if body and request.content_type == "application/json" and isinstance(request.data, Mapping):
        names = list(request.data)[:MAX_UNKNOWN]
        mistakes += [_unknown(name, f"No body is taken here, so no field '{name[:100]}'") for name in names]
    if mistakes:
        raise ValidationFailed(mistakes)


def _codes(errors: Any) -> Any:
    """REST framework's error lists with each message replaced by its code."""
    if isinstance(errors, Mapping):
        return {name: _codes(each) for name, each in errors.items()}
    if isinstance(errors, list | tuple):
        return [_codes(each) for each in errors]
    return getattr(errors, "code", "invalid")
