"""Tables of model files: where they are stored and loaded, and pending operations on them."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Host(models.Model):
    """One ComfyUI, by the name of its worker's backend, with its last reported models and memory."""

    name = models.CharField(primary_key=True, max_length=200)
    boot = models.CharField(max_length=64, blank=True, default="", help_text="Changes when ComfyUI restarts")
    bridge = models.BooleanField(default=False, help_text="It has our custom node")
    places = models.JSONField(default=dict, help_text="Folder name -> directories")
    total_bytes = models.BigIntegerField(default=0, help_text="Memory of the device")
    free_bytes = models.BigIntegerField(default=0)
    used_bytes = models.BigIntegerField(default=0, help_text="Of models on the device")
    process_bytes = models.BigIntegerField(null=True, blank=True, help_text="Resident size of ComfyUI")
    reported_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name


class Model(models.Model):
    """A model as users refer to it: a type and a name, on whichever hosts have it."""

    type = models.CharField(max_length=50)
    name = models.CharField(max_length=500, help_text="With subfolders, '/' between them")
    description = models.TextField(blank=True, default="")
    last_used = models.DateTimeField(null=True, blank=True, help_text="By an execution")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["name", "type"], name="model_by_name")]

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


class ModelFile(models.Model):
    """A model's file on one host."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="files", db_index=False)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="files")
    folder = models.CharField(max_length=50, help_text="ComfyUI's name")
    path = models.TextField()
    size = models.BigIntegerField()
    changed = models.FloatField(help_text="Time of change, seconds since the epoch")
    sha256 = models.CharField(
        max_length=64, blank=True, default="", help_text="Empty: not computed yet; -: the file cannot be read"
    )
    metadata = models.JSONField(null=True, blank=True, help_text="Null: header not read yet")
    loaded_bytes = models.BigIntegerField(default=0, help_text="On the device")
    ram_bytes = models.BigIntegerField(default=0, help_text="Held in RAM only")
    loaded_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was first seen in memory since it was loaded"
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["model", "host"], name="model_file_on_host")]
        indexes = [
            # Read by the report of what is in memory: a handful among thousands.
            models.Index(
                fields=["host"],
                name="model_file_in_memory",
                condition=Q(loaded_bytes__gt=0) | Q(ram_bytes__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.path} on {self.host_id}"


class Command(models.Model):
    """An operation on a worker's ComfyUI memory. The API waits for its result."""

    class Kind(models.TextChoices):
        LOAD = "load"
        UNLOAD = "unload"
        CLEANUP = "cleanup"

    class State(models.TextChoices):
        WAITING = "waiting"
        TAKEN = "taken"
        DONE = "done"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="commands", db_index=False)
    type = models.CharField(max_length=50, blank=True, default="")
    name = models.CharField(max_length=500, blank=True, default="")
    arguments = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    answer = models.JSONField(default=dict)
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [
            # Read by each worker every 2 s: its open commands.
            models.Index(
                fields=["host", "created_at"],
                name="model_command_open",
                condition=Q(state__in=["waiting", "taken"]),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} on {self.host_id}"


class Download(models.Model):
    """A download of a model file to one host."""

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="downloads", db_index=False)
    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="downloads", db_index=False)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+", db_index=False
    )
    url = models.TextField()
    sha256 = models.CharField(max_length=64, blank=True, default="", help_text="As the caller expects it")
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(null=True, blank=True, help_text="Null if the source does not say")
    error = models.TextField(blank=True, default="")
    created_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            # Two requests for the same name are one download.
            models.UniqueConstraint(
                fields=["model", "host"],
                name="model_download_once",
                condition=Q(state__in=["waiting", "running"]),
            ),
        ]
        indexes = [
            # Read by each worker every 2 s, and by the list of models: active downloads.
            models.Index(
                fields=["host"], name="model_download_open", condition=Q(state__in=["waiting", "running"])
            ),
            # Read by download-progress: the latest of a model.
            models.Index(fields=["model", "-created_at"], name="model_download_latest"),
        ]

    def __str__(self) -> str:
        return f"{self.url} to {self.host_id}"
