"""Tables of files. Several rows may share the same bytes; `storing` is the only code that writes them."""

from __future__ import annotations

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from comfyserve.ids import uuid7


def new_file_id() -> str:
    """With 74 random bits: an id is not a permission, but must not be guessable either."""
    return f"file_{uuid7().hex}"


class Kind(models.TextChoices):
    UPLOAD = "upload"  # uploaded by a user
    OUTPUT = "output"  # produced by an execution


class File(models.Model):
    """Bytes that a user may fetch, and their key in storage."""

    id = models.CharField(primary_key=True, max_length=40, default=new_file_id)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="files", db_index=False
    )
    kind = models.CharField(max_length=10, choices=Kind.choices)
    filename = models.CharField(max_length=255, help_text="Cleaned for display; never a path")
    description = models.CharField(max_length=1000, blank=True, default="")
    tags = ArrayField(
        models.CharField(max_length=100), default=list, db_default=[], help_text="Given with the upload"
    )
    content_type = models.CharField(
        max_length=100, help_text="Detected from the content, whatever the sender says"
    )
    size = models.BigIntegerField(help_text="Bytes")
    sha256 = models.CharField(max_length=64)
    blake3 = models.CharField(
        max_length=64, blank=True, default="", db_default="", help_text="Empty for files of earlier versions"
    )
    key = models.CharField(max_length=255, help_text="Name in the storage; files with equal bytes share it")
    thumbnail_key = models.CharField(max_length=255, blank=True, default="")  # "": none yet; see thumbnails
    width = models.IntegerField(null=True, blank=True, help_text="Pixels; null if it has none")
    height = models.IntegerField(null=True, blank=True)
    duration_seconds = models.FloatField(null=True, blank=True, help_text="Of videos and sounds")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    NONE = "none"  # instead of a thumbnail's key: generation was attempted and failed

    class Meta:
        indexes = [
            # Read by the list of a user's files, of all kinds and of one; with the expiry, so that what
            # `offset` skips and what is only counted is never fetched.
            models.Index(
                fields=["user", "-created_at", "id"], include=["expires_at"], name="file_of_user_latest"
            ),
            models.Index(
                fields=["user", "kind", "-created_at", "id"], include=["expires_at"], name="file_of_user_kind"
            ),
            # Read by the console: the latest of all, and the latest uploads.
            models.Index(fields=["-created_at"], name="file_latest"),
            models.Index(fields=["-created_at"], name="file_latest_upload", condition=Q(kind="upload")),
            # Read by storing: the same bytes of the same user.
            models.Index(fields=["user", "sha256"], name="file_of_content"),
            # Read by the Comfy API: whether the user has bytes with this hash.
            models.Index(fields=["user", "blake3"], name="file_of_blake3", condition=~Q(blake3="")),
            # Read by storing and the sweep: who else has these bytes.
            models.Index(fields=["key"], name="file_of_key"),
            # Read by the cleanup of expired files.
            models.Index(fields=["expires_at"], name="file_expiring", condition=Q(expires_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return self.filename

    @property
    def may_have_thumbnail(self) -> bool:
        """A picture or video without a thumbnail yet may turn out to be broken."""
        seen = self.content_type.startswith(("image/", "video/")) and self.width
        return bool(seen) and self.thumbnail_key != self.NONE

    @property
    def keys(self) -> list[str]:
        """Its keys in the storage."""
        return [key for key in (self.key, self.thumbnail_key) if key and key != self.NONE]


class ConvertedFile(models.Model):
    """The bytes of a file in another format or size, made once for all rows that share the bytes.

    Deleted with the last of these rows. Without a key while it is being made; `error` if that failed.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    source_key = models.CharField(max_length=255, help_text="Key of the original bytes")
    parameters = models.CharField(max_length=60, help_text="See conversion.ConversionOptions.parameters")
    key = models.CharField(max_length=255, blank=True, default="", help_text="Name in the storage")
    content_type = models.CharField(max_length=100, blank=True, default="")
    size = models.BigIntegerField(default=0, help_text="Bytes")
    sha256 = models.CharField(max_length=64, blank=True, default="")
    width = models.IntegerField(null=True, blank=True)
    height = models.IntegerField(null=True, blank=True)
    duration_seconds = models.FloatField(null=True, blank=True)
    error = models.TextField(blank=True, default="", help_text="Why the conversion failed")
    created_at = models.DateTimeField(db_default=Now())
    # the current converter, and when its claim expires
    token = models.UUIDField(null=True, blank=True)
    taken_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["source_key", "parameters"], name="converted_once"),
        ]
        indexes = [
            # Read by the sweep of bytes without a row.
            models.Index(fields=["key"], name="converted_of_key", condition=~Q(key="")),
            # Read by the cleanup of what was converted for downloads.
            models.Index(fields=["created_at"], name="converted_latest"),
        ]

    def __str__(self) -> str:
        return f"{self.parameters} of {self.source_key}"


class Destination(models.Model):
    """A bucket of a user on any S3, for outputs to be delivered to."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="destinations", db_index=False
    )
    name = models.CharField(max_length=63)
    endpoint = models.CharField(max_length=500, help_text="Such as https://s3.eu-west-1.amazonaws.com")
    region = models.CharField(max_length=63)
    bucket = models.CharField(max_length=255)
    prefix = models.CharField(max_length=255, blank=True, default="", help_text="A folder in the bucket")
    access_key = models.CharField(max_length=255)
    secret = models.TextField(help_text="Encrypted: see comfyserve.secret_box")
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now(), help_text="When it was saved and tested")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "name"], name="destination_of_user")]

    def __str__(self) -> str:
        return self.name


class UserData(models.Model):
    """A small file that an editor keeps for a user, such as ComfyUI's settings and workflows."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    path = models.CharField(max_length=255, help_text="Relative, with forward slashes")
    content = models.BinaryField()
    size = models.IntegerField(help_text="Bytes")
    created_at = models.DateTimeField(db_default=Now())
    modified_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "path"], name="user_data_path")]

    def __str__(self) -> str:
        return self.path


class Pin(models.Model):
    """A file in use: it neither expires nor is deleted until the holder has ended."""

    file = models.ForeignKey(File, on_delete=models.CASCADE, related_name="pins", db_index=False)
    holder = models.UUIDField(help_text="An execution")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["file", "holder"], name="pin_once")]

    def __str__(self) -> str:
        return f"{self.file_id} for {self.holder}"
