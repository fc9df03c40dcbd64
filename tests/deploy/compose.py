"""compose.yaml for tests: as written, and with the values of an .env substituted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from script.local.paths import ROOT

FILE = ROOT / "compose.yaml"
MANY_HOSTS = ROOT / "deploy" / "compose.many-hosts.yaml"
EXAMPLE = ROOT / ".env.example"

# ${NAME}, ${NAME:-default}, ${NAME:?message}; the innermost first.
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::(?P<kind>[-?])(?P<rest>[^${}]*))?\}")


class Missing(Exception):
    """A variable that has no default and no value."""


@cache
def written() -> Any:
    return yaml.safe_load(FILE.read_text())


def services(environment: Mapping[str, str]) -> dict[str, Any]:
    """All services, of whatever profile, as Docker Compose would run them. Raises Missing."""
    found: dict[str, Any] = _filled(written()["services"], environment)
    return found


def ours(found: Mapping[str, Any]) -> dict[str, Any]:
    """Those that run in our own image."""
    return {name: service for name, service in found.items() if service["image"].startswith("comfyserve:")}


def variables() -> dict[str, str | None]:
    """What the compose files take from .env: names with their defaults, None where there is none."""
    text = FILE.read_text() + MANY_HOSTS.read_text()
    text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found: dict[str, str | None] = {}
    while matches := list(_VARIABLE.finditer(text)):
        for match in matches:
            found[match["name"]] = match["rest"] if match["kind"] == "-" else None
        text = _VARIABLE.sub("", text)
    return found


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, environment) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, environment) for inner in value]
    return _text(value, environment) if isinstance(value, str) else value


def _text(text: str, environment: Mapping[str, str]) -> str:
    def put(match: re.Match[str]) -> str:
        if given := environment.get(match["name"]):
            return given
        if match["kind"] == "-":
            return match["rest"]
        # Kept until the whole is known: it may stand in a default that is not used.
        return f"\0{match['name']}\0"

    while _VARIABLE.search(text):
        text = _VARIABLE.sub(put, text)
    if missing := re.search("\0([A-Z0-9_]+)\0", text):
        raise Missing(missing[1])
    return text
