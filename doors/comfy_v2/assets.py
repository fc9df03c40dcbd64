"""Assets are our files: the user's own uploads and outputs. Look-up by hash is also limited to these."""

from __future__ import annotations

import json
import re
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import authentication, idempotency, idempotent_views
from accounts.models import User
from comfyserve.api import addresses
from comfyserve.api.errors import Conflict, ValidationFailed
from comfyserve.api.rendering import rendered
from comfyserve.api.schema import IDEMPOTENCY_KEY
from files import links, pins, queries, storing, transfer, uploads
from files.incoming import Incoming
from files.models import File
from files.threads import in_request_thread, in_thread
from files.views import by_method
from workflows.api.views import user_of

from . import texts
from .errors import FORMAT, ComfyError, ComfyView

TAG = re.compile(r"[^\x00-\x1f\x7f]{1,100}")
HASH = re.compile(r"blake3:[0-9a-f]{64}")
LONGEST_TAG, MAX_TAGS = 100, 10  # characters, and of one asset
# Form fields, in characters. The content determines the type.
FIELDS = {"content_type": 255, "file_path": 1000, "expected_hash": 71, "tags": LONGEST_TAG}


def asset(file: File, *, base: str, **more: Any) -> dict[str, Any]:
    """The Comfy API's `Asset`. `base` is the URL of this service as its user sees it."""
    return {
        "id": file.id,
        "hash": hash_of(file),
        "size_bytes": file.size,
        "content_type": file.content_type,
        "file_path": file.filename,
        "tags": file.tags,
        "created_at": file.created_at,
        "url": links.download_url(file, base=base),
        "url_expires_at": links.valid_until(),
        "expires_at": file.expires_at,
        **more,
    }


def hash_of(file: File) -> str | None:
    """Null for files stored before blake3 hashes were recorded."""
    return f"blake3:{file.blake3}" if file.blake3 else None


class AssetView(ComfyView):
    def get(self, request: Request, file_id: str) -> Response:
        user, base = user_of(request), addresses.base_of(request._request)
        if texts.is_text(file_id):
            return Response(texts.asset(texts.find(user=user, asset_id=file_id), base=base))
        return Response(asset(queries.file_of(file_id=file_id, user=user), base=base))

    def delete(self, request: Request, file_id: str) -> Response:
        pins.delete(queries.file_of(file_id=file_id, user=user_of(request)))
        return Response(status=204)


class ByHashView(ComfyView):
    """Whether the user has a file with this content."""

    def head(self, request: Request, digest: str) -> Response:
        found = queries.with_blake3(user=user_of(request), blake3=digest.removeprefix("blake3:"))
        return Response(status=200 if found else 404)


class FromHashView(ComfyView):
    """Create another asset with content that the user already has."""

    def post(self, request: Request) -> Response:
        given = request.data if isinstance(request.data, dict) else {}
        digest, name, tags = given.get("hash"), given.get("file_path"), _tags(given.get("tags"))
        if not isinstance(digest, str) or not HASH.fullmatch(digest):
            raise ValidationFailed.of("hash", "'hash' is 'blake3:' and 64 hexadecimal digits")
        if name is not None and not isinstance(name, str):
            raise ValidationFailed.of("file_path", "'file_path' must be a string", "INVALID_TYPE")
        original = queries.with_blake3(user=user_of(request), blake3=digest.removeprefix("blake3:"))
        if original is None:
            raise ComfyError(404, "blob_not_found", f"You have no asset with the hash {digest}")
        made = storing.copy(original, filename=name or original.filename, tags=tags)
        return Response(asset(made, base=addresses.base_of(request._request), created_new=False), status=201)


def _tags(given: Any) -> list[str]:
    """Without repetitions, in their order."""
    tags = [] if given is None else given
    if not isinstance(tags, list) or not all(isinstance(each, str) for each in tags):
        raise ValidationFailed.of("tags", "'tags' must be a list of strings", "INVALID_TYPE")
    tags = list(dict.fromkeys(tags))
    if len(tags) > MAX_TAGS or not all(TAG.fullmatch(each) for each in tags):
        message = f"At most {MAX_TAGS} tags of 1 to {LONGEST_TAG} printable characters"
        raise ValidationFailed.of("tags", message)
    return tags


class AssetsView(ComfyView):
    def post(self, request: Request) -> None:
        """Handled by `upload`, which parses the form as it is received."""


class ContentView(ComfyView):
    def get(self, request: Request, file_id: str) -> None:
        """Handled by `content`."""


@FORMAT.applied_to
async def _upload(request: HttpRequest) -> HttpResponseBase:
    user = await in_request_thread(authentication.require, request)
    incoming = Incoming()
    try:
        form = await uploads.receive(request, incoming, allowed=FIELDS)
        return await in_request_thread(_accept, request, user, form)
    finally:
        await in_thread(incoming.close)


def _accept(request: HttpRequest, user: User, form: uploads.Form) -> HttpResponse:
    """Store the file, once per Idempotency-Key."""
    incoming = form.incoming
    expected = form.fields.get("expected_hash", "").removeprefix("blake3:").lower()
    if expected and expected != incoming.blake3:
        raise ComfyError(409, "hash_mismatch", f"What arrived has the hash blake3:{incoming.blake3}")
    name = (form.fields.get("file_path") or form.filename or "").rpartition("/")[2]
    tags = _tags(form.values.get("tags"))

    def store() -> idempotency.Answer:
        file = storing.accept(incoming, user=user, filename=name, tags=tags)
        new = not File.objects.filter(user=user, key=file.key).exclude(id=file.id).exists()
        shown = asset(file, base=addresses.base_of(request), created_new=new)
        return idempotency.Answer(201, rendered(shown).decode())

    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        given = store()
    else:
        idempotent_views.check_key(key)
        mark = idempotency.fingerprint(method="POST", path=request.path, body=[incoming.sha256, name, *tags])
        given = idempotency.once(user=user, key=key, fingerprint=mark, make=store)
    if given.replayed and not File.objects.filter(id=json.loads(given.text)["id"]).exists():
        raise Conflict("The asset of this Idempotency-Key was deleted; use a new key to upload it again")
    headers = {"Idempotency-Replayed": "true"} if given.replayed else {}
    return HttpResponse(given.text, status=given.status, content_type="application/json", headers=headers)


@FORMAT.applied_to
async def _content(request: HttpRequest, file_id: str) -> HttpResponseBase:
    if texts.is_text(file_id):
        return await in_request_thread(_text, request, file_id)
    return await transfer.download(request, file_id)


def _text(request: HttpRequest, asset_id: str) -> HttpResponse:
    found = texts.find(user=authentication.require(request), asset_id=asset_id)
    return HttpResponse(texts.content(found), content_type=f"{texts.CONTENT_TYPE}; charset=utf-8")


upload = by_method(AssetsView, post=_upload)
content = by_method(ContentView, get=_content, head=_content)
