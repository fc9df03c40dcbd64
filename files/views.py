"""The file endpoints. Bytes are served by `transfer`; everything else by REST framework.

GET and DELETE share a URL, but not a half of the server: `by_method` dispatches to each.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import User
from comfyserve.api import addresses, paging
from comfyserve.api.rendering import rendered
from comfyserve.api.schema import describe
from comfyserve.api.validation import checked

from . import pins, queries, serializers, transfer
from .serializers import (
    BytesQuery,
    DownloadQuery,
    FileInfoSerializer,
    FileQuery,
    UploadedSerializer,
    UploadForm,
)

AsyncView = Callable[..., Awaitable[HttpResponseBase]]
View = Any  # Django takes both kinds; its stubs know one

PART = (
    OpenApiParameter("Range", str, OpenApiParameter.HEADER, description="Such as bytes=0-1023"),
    OpenApiParameter(
        "If-None-Match", str, OpenApiParameter.HEADER, description="An ETag that the client has"
    ),
)


def _bytes(content_type: str) -> dict[Any, Any]:
    return {
        (200, content_type): OpenApiResponse(OpenApiTypes.BINARY, description="The bytes"),
        (206, content_type): OpenApiResponse(OpenApiTypes.BINARY, description="The requested range"),
        304: OpenApiResponse(None, description="Not modified"),
    }


class UploadView(APIView):
    @describe(
        {"multipart/form-data": UploadForm},
        UploadedSerializer,
        answer={
            "file_id": "file_0f0d3a6c9d5b4d0c8a1f6c1f7a9f4a6b",
            "filename": "input_image.png",
            "size": 1048576,
            "content_type": "image/png",
            "upload_url": None,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "expires_at": "2024-01-08T00:00:00Z",
        },
    )
    def post(self, request: Request) -> None:
        """Upload a file: it is typed by its content, and may be used in workflows by its `file_id`."""


class FileView(APIView):
    permission_classes = [AllowAny]

    @describe(
        None,
        _bytes("*/*"),  # of whatever type the file is
        errors=(401, 404, 416),
        parameters=[DownloadQuery, *PART],
    )
    def get(self, request: Request, file_id: str) -> None:
        """Download a file: the bytes, to its user or to whoever holds a signed link."""

    @describe(
        None, {200: OpenApiTypes.OBJECT}, errors=(404, 409), answer={"message": "File deleted successfully"}
    )
    def delete(self, request: Request, file_id: str) -> Response:
        """Delete a file: not while a waiting or running execution needs it."""
        if not isinstance(request.user, User):
            self.permission_denied(request)  # a signed link only permits reading
        pins.delete(queries.file_of(file_id=file_id, user=user_of(request)))
        return Response({"message": "File deleted successfully"})


class ThumbnailView(APIView):
    permission_classes = [AllowAny]

    @describe(None, _bytes("image/webp"), errors=(401, 404, 416), parameters=[BytesQuery, *PART])
    def get(self, request: Request, file_id: str) -> None:
        """Download a thumbnail: WebP of at most 256 by 256 pixels, of pictures only."""


class InfoView(APIView):
    @describe(None, FileInfoSerializer)
    def get(self, request: Request, file_id: str) -> Response:
        """Get file info: what is known about a file, and a link to its bytes."""
        file = queries.file_of(file_id=file_id, user=user_of(request))
        return Response(serializers.info(file, base=addresses.base_of(request._request)))


class ListView(APIView):
    @describe(None, FileInfoSerializer(many=True), parameters=[FileQuery])
    def get(self, request: Request) -> Response:
        """List files: the user's uploads and outputs, latest first."""
        wanted = checked(FileQuery, request.query_params)
        part = {name: wanted.pop(name, None) for name in ("limit", "offset", "cursor")}
        rows = queries.files_of(user=user_of(request), **wanted)
        base = addresses.base_of(request._request)
        page = list(paging.page(rows, **part))
        return Response(
            [serializers.info(file, base=base) for file in page],
            headers=paging.count_headers(rows) | paging.next_headers(page, limit=part["limit"]),
        )


def user_of(request: Request) -> User:
    assert isinstance(request.user, User)  # noqa: S101  (the permission class has seen to it)
    return request.user


# -- one URL, two halves -------------------------------------------------------------------------------
def by_method(
    described: type[APIView],
    *,
    get_in_thread: Callable[..., HttpResponseBase] | None = None,
    **others: AsyncView,
) -> View:
    """A view that handles these methods itself, and delegates the others to REST framework's.

    `described` documents them in the schema; other methods get 405. `get_in_thread` handles GET and HEAD
    where the request is handled in a thread (`comfyserve.api.gate.threads.ThreadHandler`).
    """
    rest: Any = described.as_view()

    async def view(request: HttpRequest, **arguments: str) -> HttpResponseBase:
        own = others.get((request.method or "").lower())
        if own is not None:
            return await own(request, **arguments)
        answer: HttpResponseBase = await sync_to_async(rest)(request, **arguments)
        return answer

    if get_in_thread is not None:
        view.in_thread = csrf_exempt(get_in_thread)  # type: ignore[attr-defined]
    # As REST framework marks its own views; the schema generator checks for it.
    view.cls, view.csrf_exempt = rest.cls, True  # type: ignore[attr-defined]
    view.initkwargs = rest.initkwargs  # type: ignore[attr-defined]
    return view


async def _upload(request: HttpRequest) -> HttpResponseBase:
    return _rendered(serializers.uploaded(await transfer.upload(request)))


def _rendered(shown: dict[str, Any]) -> HttpResponseBase:
    return HttpResponse(rendered(shown), content_type="application/json")


upload = by_method(UploadView, post=_upload)
file = by_method(
    FileView, get_in_thread=transfer.download_in_thread, get=transfer.download, head=transfer.download
)
thumbnail = by_method(
    ThumbnailView, get_in_thread=transfer.thumbnail_in_thread, get=transfer.thumbnail, head=transfer.thumbnail
)
