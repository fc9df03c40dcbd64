"""Strict fields that accept only what the schema documents: no number for a string, no "yes" for true."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from drf_spectacular.drainage import set_override
from rest_framework import serializers

RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class TextField(serializers.CharField):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class EmailField(serializers.EmailField):
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        return super().to_internal_value(data)


class BooleanField(serializers.BooleanField):
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class WholeNumber(serializers.IntegerField):
    """An integer; neither "3", 3.5 nor true is taken for one."""

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            self.fail("invalid")
        return super().to_internal_value(data)


class NumberField(serializers.FloatField):
    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            self.fail("invalid")
        return super().to_internal_value(data)


class FlagField(serializers.BooleanField):
    """For queries: `true` or `false`, also as Python spells them, or 1 or 0."""

    TRUE_VALUES = {"true", "True", "1"}
    FALSE_VALUES = {"false", "False", "0"}


class IncludeField(serializers.Field[frozenset[str], str, str, Any]):
    """For queries: what else to return, as some of these names, separated by commas."""

    default_error_messages = {"invalid_choice": "Include must be some of: {names}, separated by commas"}

    def __init__(self, *names: str, help_text: str) -> None:
        super().__init__(required=False, help_text=help_text)
        self.names = names
        name = f"({'|'.join(names)})"
        set_override(self, "field", {"type": "string", "pattern": f"^{name}(,{name})*$"})

    def to_internal_value(self, data: str) -> frozenset[str]:
        found = frozenset(data.split(","))
        if not found <= set(self.names):
            self.fail("invalid_choice", names=", ".join(self.names))
        return found


class MomentField(serializers.DateTimeField):
    """A timestamp with its UTC offset; without one it would be ambiguous."""

    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str) or not RFC3339.fullmatch(value):
            self.fail("invalid", format="2024-01-31T12:00:00Z")
        return super().to_internal_value(value)
