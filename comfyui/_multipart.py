"""A multipart body that is sent while the file is read: urllib3 would buffer it whole first."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator, Mapping
from typing import IO

CHUNK = 256 * 1024  # bytes read at once


class MultipartBody:
    """Iterate to send it, once, with `content_type` as the header.

    `length` (bytes) is known if the stream can seek; else it is None and the body is sent in HTTP chunks.
    """

    def __init__(
        self, *, fields: Mapping[str, str], file_field: str, filename: str, stream: IO[bytes]
    ) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        )
        # Raw UTF-8 in quotes, as browsers send it. Percent-encoding would end up in ComfyUI's file name.
        self._head += (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{file_field}"; filename="{_quoted(filename)}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._stream = stream
        remaining = _remaining(stream)
        self.length = None if remaining is None else len(self._head) + remaining + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        while chunk := self._stream.read(CHUNK):
            yield chunk
        yield self._tail


def _quoted(filename: str) -> str:
    return filename.replace("\\", "\\\\").replace('"', '\\"')


def _remaining(stream: IO[bytes]) -> int | None:
    try:
        here = stream.tell()
        end = stream.seek(0, io.SEEK_END)
        stream.seek(here)
    except (AttributeError, OSError, ValueError):  # a pipe, a socket, a generator's wrapper
        return None
    return end - here
