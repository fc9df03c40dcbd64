"""Files as the API shows them, and the queries it takes."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from comfyserve.api.fields import FlagField, MomentField, TextField

from . import conversion, links
from .models import File, Kind


class UploadForm(serializers.Serializer[Any]):
    """The form of an upload, for the schema: it is parsed as it is received."""

    file = serializers.FileField(help_text="The file (binary)")
    description = serializers.CharField(
        required=False, max_length=1000, help_text="Your own data; returned unchanged"
    )
    sha256 = serializers.RegexField(
        "^[0-9a-fA-F]{64}$",
        required=False,
        allow_blank=True,  # as HTML forms send empty fields
        help_text="The received bytes must have this checksum",
    )


class UploadedSerializer(serializers.Serializer[Any]):
    file_id = serializers.CharField(help_text="Use it in workflows wherever a node expects a file name")
    filename = serializers.CharField(help_text="Cleaned for display")
    size = serializers.IntegerField(help_text="Bytes")
    content_type = serializers.CharField(help_text="Detected from the content, whatever the sender says")
    upload_url = serializers.CharField(allow_null=True, help_text="Always null: the upload is complete")
    sha256 = serializers.CharField(help_text="Checksum of the bytes, in hex")
    expires_at = serializers.DateTimeField(allow_null=True, help_text="When it is deleted; null: never")


class FileInfoSerializer(serializers.Serializer[Any]):
    file_id = serializers.CharField(help_text="Use it in workflows wherever a node expects a file name")
    filename = serializers.CharField(help_text="Cleaned for display")
    size = serializers.IntegerField(help_text="Bytes")
    content_type = serializers.CharField(help_text="Detected from the content, whatever the sender says")
    created_at = serializers.DateTimeField(help_text="When it was uploaded or produced")
    expires_at = serializers.DateTimeField(allow_null=True, help_text="When it is deleted; null: never")
    download_url = serializers.CharField(help_text="A signed URL: works without a header until it expires")
    thumbnail_url = serializers.CharField(allow_null=True, help_text="WebP, 256 pixels; pictures only")
    kind = serializers.ChoiceField(choices=Kind.choices, help_text="`upload`, or `output` of an execution")
    description = serializers.CharField(allow_blank=True, help_text="As given with the upload")
    sha256 = serializers.CharField(help_text="Checksum of the bytes, in hex")
    width = serializers.IntegerField(allow_null=True, help_text="Pixels as shown; pictures and videos only")
    height = serializers.IntegerField(allow_null=True, help_text="Pixels as shown; pictures and videos only")
    duration_seconds = serializers.FloatField(allow_null=True, help_text="Of videos and sounds")


class FileQuery(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=Kind.choices, required=False, help_text="Only files of this kind")
    created_after = MomentField(required=False, help_text="At this time or later")
    created_before = MomentField(required=False, help_text="Before this time")
    cursor = TextField(
        required=False,
        max_length=300,
        help_text="`X-Next-Cursor` of the previous page: concurrent changes cause no gaps or duplicates",
    )
    limit = serializers.IntegerField(min_value=1, max_value=100, default=20, help_text="Page size")
    offset = serializers.IntegerField(
        min_value=0, max_value=2**31, default=0, help_text="Number of items to skip"
    )


class BytesQuery(serializers.Serializer[Any]):
    """For requests for bytes. Signed links are validated by `links`, not here."""

    takes_any = True  # viewers add parameters of their own, for example to bypass caches

    expires = serializers.IntegerField(required=False, help_text="Of a signed link")
    signature = serializers.CharField(required=False, help_text="Of a signed link; no token is needed then")


METADATA = [("keep", ""), ("strip", "")]


class FormatFields(serializers.Serializer[Any]):
    """The requested conversion; with the numbers below."""

    format = serializers.ChoiceField(
        choices=[(name, "") for name in conversion.FORMATS], required=False, allow_null=True,
        help_text="`mp4` and `webm` are for videos and animated pictures, the others for pictures",
        error_messages={"invalid_choice": f"Format must be one of: {', '.join(conversion.FORMATS)}"},
    )  # fmt: skip
    metadata = serializers.ChoiceField(
        choices=METADATA, required=False, allow_null=True,
        help_text="`strip` removes the prompt, the workflow, EXIF and XMP",
        error_messages={"invalid_choice": "Metadata must be one of: keep, strip"},
    )  # fmt: skip


QUALITY: dict[str, Any] = {
    "min_value": 1, "max_value": 100, "required": False, "help_text": "Default 80; not for PNG"
}  # fmt: skip
MAX_SIZE: dict[str, Any] = {
    "min_value": conversion.SMALLEST, "max_value": conversion.LARGEST, "required": False,
    "help_text": "Pixels of the longer side; never enlarged",
}  # fmt: skip


class DownloadQuery(BytesQuery, FormatFields):
    download = FlagField(default=False, help_text="Always a download, never displayed inline")
    quality = serializers.IntegerField(**QUALITY)
    max_size = serializers.IntegerField(**MAX_SIZE)


def uploaded(file: File) -> dict[str, Any]:
    return {
        "file_id": file.id,
        "filename": file.filename,
        "size": file.size,
        "content_type": file.content_type,
        "upload_url": None,
        "sha256": file.sha256,
        "expires_at": file.expires_at,
    }


def info(file: File, *, base: str) -> dict[str, Any]:
    """`base` is the address of this service as its user sees it."""
    return {
        "file_id": file.id,
        "filename": file.filename,
        "size": file.size,
        "content_type": file.content_type,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "download_url": links.download_url(file, base=base),
        "thumbnail_url": links.thumbnail_url(file, base=base),
        "kind": file.kind,
        "description": file.description,
        "sha256": file.sha256,
        "width": file.width,
        "height": file.height,
        "duration_seconds": file.duration_seconds,
    }
