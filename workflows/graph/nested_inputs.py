"""Strings in a node's inputs, including those one level inside an object input.

A nested string is named `input.key`: `image.mask` is the mask in Load3D's input `image`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def texts_in(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (name, text) of each string."""
    for name, value in inputs.items():
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", inner) for key, inner in value.items() if isinstance(inner, str))


def value_of(inputs: Mapping[str, Any], name: str) -> Any:
    outer, key = _split(inputs, name)
    return inputs[outer] if key is None else inputs[outer][key]


def with_value(inputs: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return a copy of the inputs with this string replaced."""
    outer, key = _split(inputs, name)
    return {**inputs, outer: value if key is None else {**inputs[outer], key: value}}


def _split(inputs: Mapping[str, Any], name: str) -> tuple[str, str | None]:
    """(input, key inside it or None). Input names and keys may contain dots themselves."""
    if name in inputs and not isinstance(inputs[name], dict):
        return name, None
    for outer, value in inputs.items():
        if isinstance(value, dict) and name.startswith(f"{outer}.") and name[len(outer) + 1 :] in value:
            return outer, name[len(outer) + 1 :]
    raise KeyError(name)


def outer_of(inputs: Mapping[str, Any], name: str) -> str:
    """The input that contains the string."""
    return _split(inputs, name)[0]
