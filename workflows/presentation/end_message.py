"""The rows of a completed execution, as the message about its end carries them to the web processes.

So those that wait for the end, and live streams, need not read them from PostgreSQL. The message may be lost,
or come without rows (`pack` says when): then they read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import DateTimeField, Field, ForeignKey, Model, UUIDField

from files.models import ConvertedFile, File
from workflows.models import Execution, LogLine, Output

from .selectors import Whole

LONGEST = 16 * 1024  # characters of JSON; every web process receives it, and renders it in its event loop
M = TypeVar("M", bound=Model)


def pack(*, execution: str, outputs: Sequence[Output], lines: str) -> str | None:
    """JSON text that `unpack` reads: `{"execution": row, "outputs": [row], "lines": [row]}`, where a row
    maps column attributes to values. Outputs also have "file" and "converted", each a row or null.

    `execution` and `lines` are JSON text made by PostgreSQL, which costs less than to read and write them
    here. None if it would be longer than LONGEST.
    """
    made = json.dumps([_output_row(output) for output in outputs], default=str, separators=(",", ":"))
    text = f'{{"execution":{execution},"outputs":{made},"lines":{lines}}}'
    return text if len(text) <= LONGEST else None


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


def _row(instance: Model) -> dict[str, Any]:
    values = vars(instance)
    return {name: values[name] for name, _ in _fields(type(instance))}


def _output_row(output: Output) -> dict[str, Any]:
    return {
        **_row(output),
        "file": None if output.file is None else _row(output.file),
        "converted": None if output.converted is None else _row(output.converted),
    }


def _output(row: Mapping[str, Any]) -> Output:
    output = _instance(Output, row)
    output.file = None if row["file"] is None else _instance(File, row["file"])
    output.converted = None if row["converted"] is None else _instance(ConvertedFile, row["converted"])
    return output


def _instance(model: type[M], row: Mapping[str, Any]) -> M:
    names, values = [], []
    for name, read in _fields(model):
        value = row[name]
        names.append(name)
        values.append(value if read is None or value is None else read(value))
    return model.from_db("default", names, values)


@lru_cache(maxsize=8)
def _fields(model: type[Model]) -> list[tuple[str, Callable[[str], Any] | None]]:
    """Each column's attribute, and what reads its value from JSON text where that is not the value itself."""
    return [(field.attname, _reader(field)) for field in model._meta.concrete_fields]


def _reader(field: Field[Any, Any]) -> Callable[[str], Any] | None:
    if isinstance(field, ForeignKey):
        field = field.target_field
    if isinstance(field, DateTimeField):
        return datetime.fromisoformat
    return UUID if isinstance(field, UUIDField) else None
