"""The rows of a completed execution, as the message about its end carries them to the web processes.

So those that wait for the end, and live streams, need not read them from PostgreSQL. The message may be lost,
or come without rows, if they are too long or a result has more than these: then they read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import DateTimeField, Field, ForeignKey, Model, UUIDField

from comfyserve.db import rows
from files.models import File
from workflows.models import Execution, LogLine, Output

from .selectors import Whole

LONGEST = 16 * 1024  # characters of JSON; every web process receives it, and renders it in its event loop
M = TypeVar("M", bound=Model)


# The JSON text that `unpack` reads: {"execution": row, "outputs": [{"output": row, "file": row or null}],
# "lines": [row]}, with column names as keys. PostgreSQL makes it in the statement that writes these rows,
# from the CTEs `ended` (whose `row` is the execution's), `made` (the outputs), `kept` (their files), `line`.
ROWS_SQL = """
    SELECT json_build_object(
        'execution', ended.row,
        'outputs', coalesce((
            SELECT json_agg(json_build_object('output', made, 'file', kept) ORDER BY made.position)
            FROM made LEFT JOIN kept ON kept.id = made.file_id), '[]'),
        'lines', coalesce((SELECT json_agg(line ORDER BY line.id) FROM line), '[]'))::text
"""


def unpack(packed: str) -> Whole | None:
    """The rows as unchanged model instances; None if a worker of another version sent columns that differ."""
    try:
        found = json.loads(packed)
        return Whole(
            _instance(Execution, found["execution"]),
            [_output(row) for row in found["outputs"]],
            [_instance(LogLine, row) for row in found["lines"]],
        )
    except (KeyError, TypeError, ValueError):
        return None


def _output(row: Mapping[str, Any]) -> Output:
    output = _instance(Output, row["output"])
    output.file = None if row["file"] is None else _instance(File, row["file"])
    output.converted = None  # an execution with converted outputs is announced without rows
    return output


def _instance(model: type[M], row: Mapping[str, Any]) -> M:
    values = {name: row[name] for name in _names(model)}
    for name, read in _readers(model):
        if values[name] is not None:
            values[name] = read(values[name])
    return rows.instance_of(model, values.items())


@lru_cache(maxsize=8)
def _names(model: type[Model]) -> tuple[str, ...]:
    return tuple(field.attname for field in model._meta.concrete_fields)


@lru_cache(maxsize=8)
def _readers(model: type[Model]) -> list[tuple[str, Callable[[str], Any]]]:
    """What reads a column's value from JSON text, by attribute, where that is not the value itself."""
    found = [(field.attname, _reader(field)) for field in model._meta.concrete_fields]
    return [(name, read) for name, read in found if read is not None]


def _reader(field: Field[Any, Any]) -> Callable[[str], Any] | None:
    if isinstance(field, ForeignKey):
        field = field.target_field
    if isinstance(field, DateTimeField):
        return datetime.fromisoformat
    return UUID if isinstance(field, UUIDField) else None
