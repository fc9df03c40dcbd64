"""Tables of GPU workers: the nodes of each ComfyUI, and the state of each worker."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class ObjectInfo(models.Model):
    """A ComfyUI's node definitions, by hash: workers with the same nodes share one row."""

    digest = models.CharField(primary_key=True, max_length=64)
    body = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.digest[:12]


class Duty(models.Model):
    """When a fleet-wide periodic duty is due next: see `workflows.queue.duties`."""

    name = models.CharField(primary_key=True, max_length=50)
    due_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """A backend, which is one ComfyUI with the GPU worker that serves it, as reported by its heartbeat."""

    class State(models.TextChoices):
        """The state that the worker reports with each heartbeat."""

        ACTIVE = "active"
        PAUSED = "paused"  # by an operator: claims nothing new
        FAULTY = "faulty"  # paused itself after consecutive system faults; probes its ComfyUI
        HUNG = "hung"  # its ComfyUI does not stop an execution that has ended; claims nothing until it does
        DRAINING = (
            "draining"  # claims nothing new but still holds something: drained by an operator, or stopping
        )
        DRAINED = "drained"  # by an operator, and it holds nothing: it can be stopped

    class DesiredState(models.TextChoices):
        """The state an operator wants, also of a dead worker. Set by `registry.set_desired_state`."""

        WORK = "work"
        PAUSE = "pause"
        DRAIN = "drain"

    name = models.CharField(primary_key=True, max_length=200)
    host = models.CharField(max_length=200)
    pid = models.IntegerField()
    url = models.CharField(max_length=500)
    state = models.CharField(max_length=10, choices=State.choices, default=State.ACTIVE)
    # The columns keep their old names: a rename would break the old version while it is still serving.
    desired_state = models.CharField(
        max_length=10,
        choices=DesiredState.choices,
        default=DesiredState.WORK,
        db_default=DesiredState.WORK,
        db_column="wish",
    )
    desired_state_at = models.DateTimeField(null=True, blank=True, db_column="wished_at")
    reachable = models.BooleanField(default=False, help_text="Whether its ComfyUI responds")
    comfyui_version = models.CharField(max_length=50, blank=True, default="")
    boot = models.CharField(max_length=64, blank=True, default="", help_text="Changes when ComfyUI restarts")
    devices = models.JSONField(default=list)
    gpus = models.JSONField(
        default=list, help_text="GPUs of its host, as reported by NVIDIA's driver: see gpus.figures"
    )
    ram_total = models.BigIntegerField(null=True, blank=True, help_text="Bytes")
    ram_free = models.BigIntegerField(null=True, blank=True)
    object_info = models.ForeignKey(ObjectInfo, null=True, blank=True, on_delete=models.SET_NULL)
    idle = models.BooleanField(default=False, help_text="Its running slot is free")
    running = models.UUIDField(null=True, blank=True, help_text="Execution in the running slot")
    running_since = models.DateTimeField(null=True, blank=True)
    staged = models.UUIDField(null=True, blank=True)
    started_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.name
