"""HTTP headers of a download: the credentials it is asked for with, and what the answer says of the file."""

from __future__ import annotations

import base64
import re
from urllib.parse import urlsplit

from django.conf import settings

from comfyserve.outbound import client
from comfyserve.outbound.header_values import whole_number


def length_of(answer: client.Answer) -> int | None:
    return whole_number(answer.headers.get("Content-Length", ""))


def range_of(answer: client.Answer) -> tuple[int | None, int | None]:
    """(first byte, total length) of "bytes 5-9/10" and "bytes */10"."""
    span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    return whole_number(span.partition("-")[0]), whole_number(total)


def validator_of(answer: client.Answer) -> str | None:
    """A validator that the file is unchanged; a weak ETag is not one."""
    etag = answer.headers.get("ETag", "")
    if etag and not etag.startswith("W/"):
        return etag
    return answer.headers.get("Last-Modified")


def announced_sha256(answer: client.Answer) -> str:
    """The SHA-256 of the whole file, if the source announces it: Hugging Face does so in the redirect to its
    storage, others with the digest of RFC 9530. "" otherwise."""
    for headers in (*answer.hops, answer.headers):
        linked = headers.get("X-Linked-ETag", "").strip('"').lower()
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            return linked
        digest = re.search(r"sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("Repr-Digest", ""))
        if digest:
            return base64.b64decode(digest[1]).hex()
    return ""


def credentials(url: str) -> dict[str, str]:
    """The operator's token for this host. The HTTP client drops it on redirects to another host."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if parts.scheme != "https":
        return {}
    for owner, token in (
        ("huggingface.co", settings.HUGGINGFACE_TOKEN),
        ("civitai.com", settings.CIVITAI_TOKEN),
    ):
        if token and (host == owner or host.endswith(f".{owner}")):
            return {"Authorization": f"Bearer {token}"}
    return {}
