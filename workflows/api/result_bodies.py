"""An execution's result as the body of a response that is sent later, by the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from comfyserve.api.rendering import rendered
from files import backend
from workflows.presentation import end_message, file_data, representations
from workflows.presentation.selectors import Whole
from workflows.streaming.asgi import Body, WithFiles


@dataclass(frozen=True)
class ResultBody:
    """How the result of one execution is rendered: `base` is the URL of this service as its user sees it, and
    `with_data` adds the content of the files.
    """

    execution_id: UUID
    user_id: int
    base: str
    with_data: bool = False

    def of(self, found: Whole) -> Body:
        """One query if the execution failed."""
        shown = representations.result_of(found, base=self.base)
        return with_files(shown, found, base=self.base) if self.with_data else rendered(shown)

    def from_rows(self, rows: str) -> Body | None:
        """From the rows in the message about its end; None if it has to be read from the database.

        Without a query, for the event loop. It does not presign links to a bucket: that takes too long there.
        """
        found = end_message.unpack(rows) if backend.bucket() is None else None
        if found is None or (found.execution.id, found.execution.user_id) != (
            self.execution_id,
            self.user_id,
        ):
            return None
        return self.of(found)


def with_files(
    shown: Mapping[str, Any], found: Whole, *, base: str, encode: Callable[[Any], bytes] = rendered
) -> WithFiles:
    """`shown` with the content of the files in its outputs; `named_outputs` refer to the same files."""

    def render(reads: bool) -> bytes:
        content = file_data.read(found.outputs) if reads else {}
        outputs = representations.outputs(found.outputs, base=base, content=content)
        return encode({**shown, "outputs": outputs})

    return WithFiles(found.execution.user_id, render)
