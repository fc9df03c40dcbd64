from __future__ import annotations

from django.http import FileResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.views import APIView

from accounts.models import User
from comfyserve.api.errors import NotFound, Unauthorized
from comfyserve.api.schema import describe

from . import links, storing
from .models import File


class DownloadView(APIView):
    """The bytes, to whoever holds a signed link, else to their user."""

    permission_classes = [AllowAny]

    @describe(
        None,
        {(200, "*/*"): OpenApiTypes.BINARY},
        parameters=[
            OpenApiParameter("signature", str, description="Of a signed link, in place of a login"),
            OpenApiParameter("expires", str, description="Of a signed link: until when it is good"),
        ],
    )
    def get(self, request: Request, file_id: str) -> FileResponse:
        """Download File: the bytes."""
        rows = File.objects.filter(id=file_id)
        signature = request.query_params.get("signature")
        if signature is not None:
            if not links.is_signed(
                file_id, expires=request.query_params.get("expires", ""), signature=signature
            ):
                raise Unauthorized("The link has expired or was altered; fetch a new one")
        elif isinstance(request.user, User):
            rows = rows.filter(user=request.user)
        else:
            raise Unauthorized("Authentication required")
        file = rows.first()
        if file is None:
            raise NotFound(f"There is no file {file_id[:100]}")
        return FileResponse(storing.open_file(file), filename=file.filename, content_type=file.content_type)
