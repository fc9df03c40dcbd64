"""Failures of the file storage.

ApiError
├── StorageUnavailable      503    the storage does not respond; a retry may succeed
└── BytesMissing     404    there is a row, but its bytes are gone from the storage
"""

from __future__ import annotations

from comfyserve.api.errors import NotFound, Unavailable


class StorageUnavailable(Unavailable):
    def __init__(self, message: str = "The file storage is not available; try again shortly") -> None:
        super().__init__(message, retry_after=10)


class BytesMissing(NotFound):
    pass
