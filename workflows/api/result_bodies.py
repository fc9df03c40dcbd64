"""An execution's result as the body of a response that is sent later, by the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from comfyserve.api.rendering import rendered
from files import backend
from workflows.presentation import end_message, file_data, representations, selectors
from workflows.presentation.selectors import Whole
from workflows.streaming.asgi import Body, WithFiles
from workflows.streaming.event_reader import Event


@dataclass(frozen=True)
class ResultBody:
    """How the result of one execution is rendered: `base` is the URL of this service as its user sees it, and
    `with_data` adds the content of the files.
    """

    execution_id: UUID
    user_id: int
    base: str
    with_data: bool = False
    encode: Callable[[Any], bytes] = rendered

    def of(self, found: Whole) -> Body:
        """One query if the execution failed."""
        shown = representations.result_of(found, base=self.base)
        if self.with_data:
            return with_files(shown, found, base=self.base, encode=self.encode)
        return self.encode(shown)

    def read(self) -> Body | None:
        """From the database; None if it has been deleted."""
        found = selectors.whole(self.execution_id)
        return None if found is None else self.of(found)

    def of_end(self, last: Event) -> Body | None:
        """The same as `from_rows`, from the last event of a stream."""
        return None if last.whole is None or backend.bucket() is not None else self.of(last.whole)

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


def event(name: str, data: Any) -> bytes:
    """A server-sent event. Metadata is rendered as it was sent, maybe with line breaks, which `data` must not
    have.
    """
    text = rendered(data).replace(b"\r", b" ").replace(b"\n", b" ")
    return b"event: %s\ndata: %s\n\n" % (name.encode(), text)


def with_files(
    shown: Mapping[str, Any], found: Whole, *, base: str, encode: Callable[[Any], bytes] = rendered
) -> WithFiles:
    """`shown` with the content of the files in its outputs; `named_outputs` refer to the same files."""

    def render(reads: bool) -> bytes:
        content = file_data.read(found.outputs) if reads else {}
        outputs = representations.outputs(found.outputs, base=base, content=content)
        return encode({**shown, "outputs": outputs})

    return WithFiles(found.execution.user_id, render)
