"""django-storages' S3 storage with one client for all threads, and limits on time and memory.

It would otherwise create a connection per thread, at a tenth of a second of CPU each. boto3 clients are
thread-safe.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from storages.backends.s3 import S3Storage

PART = 8 * 1024 * 1024  # bytes; larger files are uploaded in parts
PARTS_AT_ONCE = 2
CONNECTIONS = 64
_making = threading.Lock()


class Bucket(S3Storage):  # type: ignore[misc]
    public_url: str

    def get_default_settings(self) -> dict[str, Any]:
        return {**super().get_default_settings(), "public_url": ""}

    @cached_property
    def client(self) -> Any:
        return self._client(self.endpoint_url)

    @cached_property
    def public_client(self) -> Any:
        """Signs the links for users: the host is part of what is signed."""
        return self._client(self.public_url) if self.public_url else self.client

    def _client(self, endpoint: str | None) -> Any:
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint else "auto"},
            connect_timeout=3,
            read_timeout=20,
            retries={"mode": "standard", "total_max_attempts": 2},
            max_pool_connections=CONNECTIONS,
        )
        with _making:  # boto3 sessions are not thread-safe
            return boto3.session.Session().client(
                "s3",
                aws_access_key_id=self.access_key or None,
                aws_secret_access_key=self.secret_key or None,
                region_name=self.region_name,
                endpoint_url=endpoint,
                config=config,
            )

    def key_of(self, name: str) -> str:
        return str(self._normalize_name(name))

    def put(
        self,
        name: str,
        content: Path | bytes,
        *,
        content_type: str,
        on_bytes: Callable[[int], Any] | None = None,
    ) -> None:
        """Large files in parts. boto3 sends a checksum with each, which the server verifies. `on_bytes` is
        called from other threads, as bytes are sent.

        A file by its path, since boto3 would read the parts of an open one into memory, ten ahead.
        """
        upload = self.client.upload_file if isinstance(content, Path) else self.client.upload_fileobj
        upload(
            str(content) if isinstance(content, Path) else BytesIO(content),
            self.bucket_name,
            self.key_of(name),
            ExtraArgs={"ContentType": content_type},
            Callback=on_bytes,
            Config=TransferConfig(
                multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=PARTS_AT_ONCE
            ),
        )

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.bucket_name, Key=self.key_of(name))
