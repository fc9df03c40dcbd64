"""Parses STORAGE_URL: a folder on disk, or a bucket on any S3 server.

    (empty)                                      DATA_DIR/files
    file:///srv/files                            another folder
    s3://key:secret@host:port/bucket             an S3 server over https
    s3://key:secret@host:port/bucket?tls=false   the same over http
    s3://key:secret@/bucket?region=eu-west-1     Amazon's own
    s3:///bucket                                 the same, credentials as boto3 finds them

More options of the query: `region`, `prefix` (a folder in the bucket), and `public`, an address of the same
server as users reach it (such as https://files.example.com), for the links that they are given.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

OPTIONS = {"tls", "region", "prefix", "public"}


def parse(url: str, *, default: Path, link_seconds: int) -> dict[str, Any]:
    """Django's STORAGES entry. ValueError, without the secret, if the URL is invalid."""
    if not url:
        return _disk(default)
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/"):
        return _disk(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        return _s3(parts, link_seconds)
    raise ValueError("STORAGE_URL must start with file:/// or s3://")


def _disk(folder: Path) -> dict[str, Any]:
    return {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": str(folder)},
    }


def _s3(parts: SplitResult, link_seconds: int) -> dict[str, Any]:
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    bucket = parts.path.strip("/")
    if not bucket or "/" in bucket:
        raise ValueError("STORAGE_URL must name one bucket: s3://key:secret@host:port/bucket")
    if unknown := set(options) - OPTIONS:
        raise ValueError(f"STORAGE_URL has unknown options: {', '.join(sorted(unknown))}")
    tls = options.get("tls", "true").lower()
    if tls not in ("true", "false"):
        raise ValueError("STORAGE_URL: write tls=true or tls=false")
    found: dict[str, Any] = {
        "bucket_name": bucket,
        "region_name": options.get("region") or "us-east-1",
        "location": options.get("prefix", "").strip("/"),
        "querystring_expire": link_seconds,
        "public_url": options.get("public", "").rstrip("/"),
    }
    if parts.hostname:
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        port = f":{parts.port}" if parts.port else ""
        found["endpoint_url"] = f"http{'s' if tls == 'true' else ''}://{host}{port}"
    if parts.username:
        found["access_key"] = unquote(parts.username)
        found["secret_key"] = unquote(parts.password or "")
    return {"BACKEND": "files.s3.Bucket", "OPTIONS": found}
