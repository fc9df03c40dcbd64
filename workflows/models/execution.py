"""Tables of executions. Only `queue.state_machine` and `queue.requeueing` may change a status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Coalesce, Now

from comfyserve.ids import uuid7

from .own_metadata import OwnMetadata

if TYPE_CHECKING:
    from .output_delivery import OutputDelivery


class Status(models.TextChoices):
    PENDING = "pending"  # waiting for a GPU, or staged behind the running one
    RUNNING = "running"  # ComfyUI has started it
    COMPLETED = "completed"  # terminal; all outputs are stored
    FAILED = "failed"  # terminal; `error` explains why
    CANCELLED = "cancelled"  # terminal; by its user or an operator


ALIVE = (Status.PENDING, Status.RUNNING)
TERMINAL = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


class Priority(models.TextChoices):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class FailureCause(models.TextChoices):
    """Why an execution failed, for metrics and the console; `error` explains it to the user."""

    NODE = "node"  # a node raised an exception
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    REFUSED = "refused"  # ComfyUI rejected the workflow
    INPUT = "input"  # a file it needs is missing or unusable
    UNREADABLE = "unreadable"  # ComfyUI crashes when parsing the workflow
    GIVEN_UP = "given_up"  # too many attempts were interrupted
    NOT_TAKEN = "not_taken"  # no worker could take it
    OUTPUTS = "outputs"  # it ran, but its outputs could not be stored or exceed the user's storage quota
    OTHER = "other"  # not recorded: it failed under an earlier version


class Held(models.TextChoices):
    """Why a pending execution may not be claimed yet."""

    BACKOFF = "backoff"  # after a system fault: until `held_until`
    QUOTA = "quota"  # its user is running as many as allowed


class Execution(models.Model):
    """One submitted workflow. The id is also ComfyUI's `prompt_id`.

    The row is narrow, and no index contains a column that lease renewals or progress writes change, so that
    those updates stay on the page (HOT). The graph is in `Graph`, log lines in `LogLine`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="executions", db_index=False
    )
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    priority = models.CharField(max_length=10, choices=Priority.choices, default=Priority.NORMAL)
    created_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)
    timeout_minutes = models.IntegerField()
    request_id = models.CharField(max_length=128, blank=True, default="")
    # Kept when that execution is deleted. With a constraint, each deletion would scan all executions.
    retried_from = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.DO_NOTHING, related_name="retries", db_index=False,
        db_constraint=False,
    )  # fmt: skip

    # place in the order: see docs/scheduling.md and queue.scheduling
    turn = models.FloatField()
    start = models.FloatField()
    finish = models.FloatField()
    cost = models.FloatField(help_text="Estimated GPU seconds")
    held = models.CharField(max_length=10, choices=Held.choices, null=True, blank=True)  # noqa: DJ001  (null: not held)
    held_until = models.DateTimeField(null=True, blank=True)

    # the claim: which worker holds it, and until when
    claim_token = models.UUIDField(null=True, blank=True)
    worker = models.CharField(max_length=200, blank=True, default="", help_text="Backend of the last claim")
    claimed_at = models.DateTimeField(null=True, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    suspect_lease = models.DateTimeField(
        null=True, blank=True, help_text="The lease that the reaper saw expired"
    )
    suspect_since = models.DateTimeField(null=True, blank=True)
    attempt = models.IntegerField(default=0)
    posted_at = models.DateTimeField(null=True, blank=True, help_text="Since when its ComfyUI may have it")
    has_input_files = models.BooleanField(
        default=True, db_default=True, help_text="Files are placed on its ComfyUI before it is posted"
    )
    boot = models.CharField(max_length=64, blank=True, default="", help_text="ComfyUI's run it was posted to")
    returns = models.IntegerField(default=0, help_text="Number of requeues while it ran")
    tries = models.IntegerField(
        default=0, db_default=0, help_text="Number of tries that failed for other reasons than its workflow"
    )
    faults = models.IntegerField(default=0, help_text="Number of times its ComfyUI died while it ran")
    losses = models.IntegerField(
        default=0, db_default=0, help_text="Number of times its worker died while holding it"
    )
    handled_alone = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Its worker handles no other execution now: if the worker dies, this is the cause",
    )
    excluded = ArrayField(
        models.CharField(max_length=200), default=list, blank=True, help_text="Backends that rejected it"
    )
    lacking = ArrayField(
        models.CharField(max_length=200), default=list, db_default=[], blank=True,
        help_text="Backends without a node or model that another has: see queue.matching",
    )  # fmt: skip

    # progress of the current attempt
    current_step = models.IntegerField(default=0)
    total_steps = models.IntegerField(default=0)
    percentage = models.FloatField(default=0)
    current_node = models.CharField(max_length=200, null=True, blank=True)  # noqa: DJ001  (null as documented)
    eta_seconds = models.FloatField(null=True, blank=True)

    # properties and results
    kind = models.CharField(
        max_length=32, help_text="Same for workflows of about the same cost: see graph.parsing.kind_of"
    )
    models_used = models.JSONField(default=list)
    metadata = models.JSONField(default=dict, help_text="For queries; users are shown `metadata_text`")
    metadata_text = models.TextField(blank=True, default="", db_default="", help_text="JSON, exactly as sent")
    webhook_url = models.TextField(blank=True, default="")
    warnings = models.JSONField(default=list, help_text="Such as outputs that ComfyUI skipped")
    error = models.TextField(null=True, blank=True)  # noqa: DJ001  (null as documented)
    failure_cause = models.CharField(max_length=20, choices=FailureCause.choices, null=True, blank=True)  # noqa: DJ001  (null: it did not fail, or it failed under an earlier version)
    gpu_seconds = models.FloatField(null=True, blank=True)
    app = models.JSONField(
        null=True, blank=True,
        help_text="Of a run of an app: see apps_catalog.running",
    )  # fmt: skip
    # Set at submission; an execution that was retried leaves its batch. No constraint, as above.
    batch = models.ForeignKey(
        "workflows.Batch", null=True, blank=True, on_delete=models.DO_NOTHING, related_name="executions",
        db_index=False, db_constraint=False,
    )  # fmt: skip
    batch_position = models.IntegerField(null=True, blank=True)

    class Meta:
        indexes = [
            # Used by scheduling (claim, positions): waiting rows only, so it stays small as history grows.
            models.Index(
                fields=["turn", "created_at"],
                name="execution_waiting",
                condition=Q(status="pending", claim_token=None, held=None),
            ),
            # Used by the sweeps that release held executions.
            models.Index(
                fields=["held", "held_until"],
                name="execution_held",
                condition=Q(status="pending", held__isnull=False),
            ),
            # Used by workers (adopt, staged elsewhere) and the reaper.
            models.Index(fields=["worker"], name="execution_claimed", condition=Q(claim_token__isnull=False)),
            # Used by scheduling (place, settle): a flow's first and last waiting execution, and its last
            # claimed one.
            models.Index(
                fields=["user", "priority", "finish"],
                name="execution_flow_waiting",
                condition=Q(status="pending", claimed_at=None),
            ),
            models.Index(
                fields=["user", "priority", "finish"],
                name="execution_flow_claimed",
                condition=Q(claimed_at__isnull=False),
            ),
            # Used by scheduling.place: virtual time, the highest start ever claimed.
            models.Index(
                fields=["-start"], name="execution_highest_start", condition=Q(claimed_at__isnull=False)
            ),
            # Used by the list of a user's executions: includes the id, so that skipped rows are never
            # fetched.
            models.Index(fields=["user", "-created_at", "-id"], name="execution_of_user_latest"),
            # Used by the same list, filtered by status.
            models.Index(fields=["user", "status", "-created_at", "-id"], name="execution_of_user_status"),
            # Used by quotas: a user's pending and running executions.
            models.Index(
                fields=["user", "status"],
                name="execution_alive",
                condition=Q(status__in=["pending", "running"]),
            ),
            # Used by estimates: the user's latest of a kind.
            models.Index(
                fields=["user", "kind", "-completed_at"],
                name="execution_kind_of_user",
                condition=Q(status="completed"),
            ),
            # Used by estimates: the latest of a kind.
            models.Index(
                fields=["kind", "-completed_at"], name="execution_kind", condition=Q(status="completed")
            ),
            # Used by health: the number waiting per priority, and since when.
            models.Index(
                fields=["priority", "created_at"], name="execution_queue", condition=Q(status="pending")
            ),
            # Used by the console: the latest of all, and the latest with a given terminal status.
            models.Index(fields=["-created_at"], name="execution_latest"),
            models.Index(
                fields=["status", "-created_at"],
                name="execution_outcome",
                condition=Q(completed_at__isnull=False),
            ),
            # Used by the console's filters, each for values that few executions have.
            models.Index(
                fields=["worker", "-created_at"], name="execution_of_worker", condition=~Q(worker="")
            ),
            models.Index(
                fields=["priority", "-created_at"],
                name="execution_of_priority",
                condition=~Q(priority="normal"),
            ),
            models.Index(
                Coalesce("failure_cause", Value("other")),
                F("created_at").desc(),
                name="execution_of_cause",
                condition=Q(status="failed"),
            ),
            # The same for models. Written at once: a list of pending entries would delay a random submission.
            GinIndex(
                fields=["models_used"],
                name="execution_of_model",
                opclasses=["jsonb_path_ops"],
                fastupdate=False,
            ),
            # Used by the list of a user's executions, filtered by app. There are statistics for it, too:
            # see migration 0040.
            models.Index(
                F("user"),
                KeyTransform("name", "app"),
                F("created_at").desc(),
                F("id").desc(),
                name="execution_of_app",
                condition=Q(app__isnull=False),
            ),
            # The same, filtered by status too.
            models.Index(
                F("user"),
                KeyTransform("name", "app"),
                F("status"),
                F("created_at").desc(),
                F("id").desc(),
                name="execution_of_app_status",
                condition=Q(app__isnull=False),
            ),
            # Used by an execution's page, and when one is deleted: its retries.
            models.Index(
                fields=["retried_from"],
                name="execution_retries",
                condition=Q(retried_from__isnull=False),
            ),
            # Used by a batch's page, and by actions on a whole batch.
            models.Index(
                fields=["batch", "batch_position"],
                name="execution_batch",
                condition=Q(batch__isnull=False),
            ),
            # Used by lists that are filtered by metadata: see selectors.labelled. Written at once, as above.
            GinIndex(
                OpClass(OwnMetadata(), name="jsonb_path_ops"),
                name="execution_own_metadata",
                condition=~Q(metadata={}),
                fastupdate=False,
            ),
            # Used by the same lists: a user's latest with any metadata.
            models.Index(
                fields=["user", "-created_at", "-id"],
                name="execution_of_user_labelled",
                condition=~Q(metadata={}),
            ),
            # Used by the list of a user's videos.
            models.Index(
                fields=["user", "-created_at", "-id"],
                name="execution_of_user_video",
                condition=Q(metadata__has_key="openai_video"),
            ),
            # Used by retention.
            models.Index(
                fields=["completed_at"], name="execution_ended", condition=Q(completed_at__isnull=False)
            ),
        ]
        constraints = [
            models.CheckConstraint(
                name="execution_ended_has_no_claim",
                condition=Q(status__in=["pending", "running"]) | Q(claim_token=None),
            ),
            models.CheckConstraint(
                name="execution_running_is_claimed",
                condition=~Q(status="running") | Q(claim_token__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def duration_seconds(self) -> float | None:
        if self.started_at is None or self.completed_at is None:
            return None
        return round((self.completed_at - self.started_at).total_seconds(), 3)


class Flow(models.Model):
    """A user's place in the order per priority, in addition to what the executions record.

    See scheduling.charge and scheduling.remember.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+", db_index=False
    )
    priority = models.CharField(max_length=10, choices=Priority.choices)
    start = models.FloatField(help_text="The highest of those that were claimed")
    finish = models.FloatField(help_text="The same")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "priority"], name="flow_once")]
        indexes = [
            # Used by scheduling.place: virtual time does not go back when executions are deleted.
            models.Index(fields=["-start"], name="flow_latest"),
        ]

    def __str__(self) -> str:
        return f"{self.priority} of user {self.user_id}"


class Graph(models.Model):
    """The large parts of an execution, read only when it runs or on request."""

    execution = models.OneToOneField(
        Execution, primary_key=True, on_delete=models.CASCADE, related_name="graph"
    )
    submitted = models.JSONField(help_text="As submitted")
    prompt = models.JSONField(help_text="In ComfyUI's API format")
    inputs = models.JSONField(null=True, blank=True, help_text="Named values of an app or batch run")
    extras = models.JSONField(
        default=dict, db_default={}, help_text="`extra_data` and `partial_execution_targets` for ComfyUI"
    )
    output = models.JSONField(
        default=dict, db_default={}, help_text="Requested output options: see api.serializers.OutputOptions"
    )
    error_details = models.JSONField(null=True, blank=True)

    def __str__(self) -> str:
        return f"graph of {self.execution_id}"


class Output(models.Model):
    """One output of an execution: a file or a text."""

    execution = models.ForeignKey(Execution, on_delete=models.CASCADE, related_name="outputs", db_index=False)
    position = models.IntegerField()
    group = models.CharField(max_length=20, help_text="images, videos, audio, 3d, texts, files")
    node_id = models.CharField(max_length=200)
    subfolder = models.CharField(max_length=500, blank=True, default="")
    temporary = models.BooleanField(default=False, help_text="A preview, which ComfyUI itself does not keep")
    file = models.ForeignKey("files.File", null=True, on_delete=models.SET_NULL, related_name="outputs")
    text = models.TextField(null=True)  # noqa: DJ001  (null: it is a file)
    # No constraint: adding one would have locked the table during validation.
    converted = models.ForeignKey(
        "files.ConvertedFile", null=True, on_delete=models.SET_NULL, related_name="outputs",
        db_constraint=False, db_index=False,
    )  # fmt: skip

    class Meta:
        constraints = [models.UniqueConstraint(fields=["execution", "position"], name="output_of_execution")]
        indexes = [
            # Used by the cleanup of converted files: which of them results refer to.
            models.Index(fields=["converted"], name="output_converted", condition=Q(converted__isnull=False)),
        ]

    # Set by `presentation.selectors`, in the query that reads the output.
    sent: OutputDelivery | None = None

    def __str__(self) -> str:
        return f"{self.group} of {self.execution_id}"
