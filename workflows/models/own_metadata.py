"""An execution's metadata under its user's id, as the index of labels has it."""

from __future__ import annotations

from typing import Any

from django.db.models import F, Func, JSONField


class OwnMetadata(Func):
    """`{"<user's id>": metadata}`, so that a label of one user is another entry of the index than the same
    label of another user.
    """

    function = "jsonb_set"
    template = "%(function)s('{}'::jsonb, ARRAY[%(expressions)s)"
    arg_joiner = "::text], "
    output_field = JSONField()

    def __init__(self, *expressions: Any, **extra: Any) -> None:
        super().__init__(*(expressions or (F("user"), F("metadata"))), **extra)
