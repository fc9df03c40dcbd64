"""Compares real answers with openapi.yaml: every key, and the type of every value."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from comfyserve.api.docs import schema


def route_of(path: str) -> str:
    """As openapi.yaml spells this path template; the slash at its end does not matter."""
    return next(each for each in schema()["paths"] if each.rstrip("/") == path.partition("?")[0].rstrip("/"))


def differences(method: str, path: str, answer: Any) -> list[str]:
    """What is in the answer and not described, or described and not in the answer. `path` is the template."""
    described = _described(method, route_of(path), answer.status_code)
    body = answer.json()
    types = [f"{error.json_path}: {error.message[:200]}" for error in _validator(described).iter_errors(body)]
    return types + list(_unknown(_resolved(described), body))


def _described(method: str, route: str, status: int) -> str:
    """The JSON pointer of the answer's schema."""
    keys = ["paths", route, method, "responses", str(status), "content", "application/json", "schema"]
    return "#/" + "/".join(key.replace("~", "~0").replace("/", "~1") for key in keys)


@cache
def _validator(pointer: str) -> Draft202012Validator:
    return Draft202012Validator(
        {"$ref": pointer, "components": schema()["components"], "paths": schema()["paths"]}
    )


def _resolved(pointer: str) -> Any:
    found: Any = schema()
    for key in pointer.removeprefix("#/").split("/"):
        found = found[key.replace("~1", "/").replace("~0", "~")]
    return found


def _unknown(described: dict[str, Any], body: Any, at: str = "$") -> Iterator[str]:
    """Keys that are in the answer only."""
    while "$ref" in described:
        described = _resolved(described["$ref"])
    choices = described.get("oneOf") or described.get("anyOf")
    if choices:
        yield from min((list(_unknown(choice, body, at)) for choice in choices), key=len)
        return
    for part in described.get("allOf", []):
        described = {**(_resolved(part["$ref"]) if "$ref" in part else part), **described}
    if isinstance(body, list):
        for each in body:
            yield from _unknown(described.get("items", {}), each, f"{at}[]")
    elif isinstance(body, dict) and "properties" in described:
        known = described["properties"]
        yield from (f"{at}.{key} is not described" for key in sorted(set(body) - set(known)))
        for key in set(known) & set(body):
            yield from _unknown(known[key], body[key], f"{at}.{key}")
