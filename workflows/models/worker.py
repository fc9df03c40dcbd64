"""Tables of GPU workers: what each ComfyUI has, and what each worker does."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class ObjectInfo(models.Model):
    """What the nodes of a ComfyUI take, by hash: workers with the same nodes share one row."""

    digest = models.CharField(primary_key=True, max_length=64)
    body = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.digest[:12]


class Duty(models.Model):
    """What one worker of the fleet does now and then for all: see `workflows.queue.duties`."""

    name = models.CharField(primary_key=True, max_length=50)
    due_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.name


class Worker(models.Model):
    """A backend, one ComfyUI, and the GPU worker that serves it, as its heartbeat tells."""

    class State(models.TextChoices):
        """What the worker says of itself, with each heartbeat."""

        ACTIVE = "active"
        PAUSED = "paused"  # by an operator: takes nothing new
        FAULTY = "faulty"  # took itself out after system faults in a row; probes its ComfyUI
        HUNG = "hung"  # its ComfyUI does not stop an execution that has ended; takes nothing until it does
        DRAINING = (
            "draining"  # takes nothing new, and holds something still: drained by an operator, or it stops
        )
        DRAINED = "drained"  # by an operator, and it holds nothing: it can be stopped

    class DesiredState(models.TextChoices):
        """What an operator wants of it, whether it lives or not; who writes it: `workers.ask`."""

        WORK = "work"
        PAUSE = "pause"
        DRAIN = "drain"

    name = models.CharField(primary_key=True, max_length=200)
    host = models.CharField(max_length=200)
    pid = models.IntegerField()
    url = models.CharField(max_length=500)
    state = models.CharField(max_length=10, choices=State.choices, default=State.ACTIVE)
    wish = models.CharField(
        max_length=10, choices=DesiredState.choices, default=DesiredState.WORK, db_default=DesiredState.WORK
    )
    wished_at = models.DateTimeField(null=True, blank=True)
    reachable = models.BooleanField(default=False, help_text="Its ComfyUI answers")
    comfyui_version = models.CharField(max_length=50, blank=True, default="")
    boot = models.CharField(max_length=64, blank=True, default="", help_text="Changes when ComfyUI restarts")
    devices = models.JSONField(default=list)
    gpus = models.JSONField(default=list, help_text="Of its host, as NVIDIA's driver tells: see gpus.figures")
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
