"""The log lines of executions, which are also the events of their live streams."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class Level(models.TextChoices):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LineKind(models.TextChoices):
    """The kind of a log line, which is the name of its event in the live stream."""

    LOG = "log"
    STATUS = "status"  # a status change; `data` has the new status
    NODE = "node"  # a node starts
    OUTPUT = "output"  # an output was produced; `data` describes it


class LogLine(models.Model):
    """A line of an execution's log; numbered, so that a client can resume where it stopped.

    Lines of one execution are written under its row lock, so the order of their ids is the order in which
    they became visible. This does not hold across executions.
    """

    id = models.BigAutoField(primary_key=True)
    execution = models.ForeignKey(
        "workflows.Execution", on_delete=models.CASCADE, related_name="log_lines", db_index=False
    )
    timestamp = models.DateTimeField(db_default=Now())
    level = models.CharField(max_length=10, choices=Level.choices)
    message = models.TextField()
    node_id = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001  (null as documented)
    kind = models.CharField(
        max_length=10, choices=LineKind.choices, default=LineKind.LOG, db_default=LineKind.LOG
    )
    data = models.JSONField(null=True, blank=True, help_text="Additional data for the live stream")

    class Meta:
        indexes = [models.Index(fields=["execution", "id"], name="log_of_execution")]

    def __str__(self) -> str:
        return self.message
