import uuid

import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import workflows.models.webhook

# Renewals and progress change executions often: room in the page for that (HOT), and early vacuuming.
UPDATED_OFTEN = """
ALTER TABLE workflows_execution SET (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.02
)
"""
# Vacuumed at a fiftieth of the rows instead of a fifth: the space that retention frees is soon reused, and
# looking for the oldest row does not pass millions of dead ones.
VACUUMED_EARLY = ("graph", "logline", "output", "webhook", "delivery", "deliveryattempt")
VACUUM_EARLY = """
ALTER TABLE workflows_{} SET (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000)
"""

# What the console shows to both groups, and what operators may do.
VIEW = {
    "accounts": ["user", "userlimits", "apikey", "session", "auditentry"],
    "files": ["file", "destination"],
    "models_registry": ["host", "model", "modelfile", "command", "download"],
    "workflows": [
        "execution", "logline", "output", "worker", "delivery", "deliveryattempt", "noderule", "outputdelivery",
    ],
}  # fmt: skip
CHANGE = {
    "accounts": ["user", "userlimits"],
    "files": ["destination"],
    "models_registry": ["model"],
    "workflows": ["execution", "worker", "delivery", "noderule", "outputdelivery"],
}
ADD = {"accounts": ["user", "userlimits"], "workflows": ["noderule"]}
DELETE = {
    "accounts": ["apikey", "userlimits"],
    "files": ["file"],
    "workflows": ["execution", "noderule"],
}


def make_operator_groups(apps, _):
    """Django creates permissions only after all migrations, so these are created here."""
    group = apps.get_model("auth", "Group").objects
    readers, _ = group.get_or_create(name="Operators (read only)")
    operators, _ = group.get_or_create(name="Operators")
    views = _permissions(apps, "view", VIEW)
    readers.permissions.add(*views)
    operators.permissions.add(*views)
    for action, models_of in (("change", CHANGE), ("add", ADD), ("delete", DELETE)):
        operators.permissions.add(*_permissions(apps, action, models_of))


def _permissions(apps, action, models_of):
    found = []
    for app, names in models_of.items():
        for name in names:
            kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
                app_label=app, model=name
            )
            label = f"Can {action} {apps.get_model(app, name)._meta.verbose_name}"
            permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
                content_type=kind, codename=f"{action}_{name}", defaults={"name": label}
            )
            found.append(permission)
    return found


class Migration(migrations.Migration):
    replaces = [
        # Needs tables of this app, which later needs its groups: replaced here, the apps depend on each other
        # in one direction.
        ("accounts", "0003_operator_groups"),
        ("workflows", "0001_initial"),
        ("workflows", "0002_keep_updates_in_the_page"),
        ("workflows", "0003_warnings"),
        ("workflows", "0004_webhooks_and_numbered_events"),
        ("workflows", "0005_statistics"),
        ("workflows", "0006_returns"),
        ("workflows", "0007_operators_list"),
        ("workflows", "0008_worker_wishes"),
        ("workflows", "0009_retention"),
        ("workflows", "0010_lacking"),
        ("workflows", "0011_plainer_help_texts"),
        ("workflows", "0012_indexes_of_user_lists"),
        ("workflows", "0013_metadata_as_sent"),
        ("workflows", "0014_duties_and_tries"),
        ("workflows", "0015_order_by_highest_start"),
        ("workflows", "0016_failure_cause"),
        ("workflows", "0017_apps_and_batches"),
        ("workflows", "0018_index_of_batches"),
        ("workflows", "0019_extras"),
        ("workflows", "0020_node_rules"),
        ("workflows", "0021_operators_edit_node_rules"),
        ("workflows", "0022_flows_waiting_and_claimed"),
        ("workflows", "0023_batch_event"),
        ("workflows", "0024_worker_hung_state"),
        ("workflows", "0025_outputs_as_wanted"),
        ("workflows", "0026_index_of_converted"),
        ("workflows", "0027_losses"),
        ("workflows", "0028_has_input_files"),
        ("workflows", "0029_output_delivery"),
        ("workflows", "0030_index_of_metadata"),
        ("workflows", "0031_output_delivery_retried_since"),
        ("workflows", "0032_index_of_failed_deliveries"),
        ("workflows", "0033_operators_see_deliveries"),
        ("workflows", "0034_worker_desired_state"),
        ("workflows", "0035_reworded_help_texts"),
        ("workflows", "0036_outputs_failure_cause"),
    ]

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("accounts", "0001_squashed_0002_audit_log"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("files", "0001_squashed_0011_plainer_help_texts"),
        ("models_registry", "0001_squashed_0002_plainer_help_texts"),
    ]

    operations = [
        migrations.CreateModel(
            name="ObjectInfo",
            fields=[
                ("digest", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("body", models.JSONField()),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("name", models.CharField(max_length=200, primary_key=True, serialize=False)),
                ("host", models.CharField(max_length=200)),
                ("pid", models.IntegerField()),
                ("url", models.CharField(max_length=500)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("active", "Active"),
                            ("paused", "Paused"),
                            ("faulty", "Faulty"),
                            ("hung", "Hung"),
                            ("draining", "Draining"),
                            ("drained", "Drained"),
                        ],
                        default="active",
                        max_length=10,
                    ),
                ),
                ("reachable", models.BooleanField(default=False, help_text="Whether its ComfyUI responds")),
                ("comfyui_version", models.CharField(blank=True, default="", max_length=50)),
                (
                    "boot",
                    models.CharField(
                        blank=True, default="", help_text="Changes when ComfyUI restarts", max_length=64
                    ),
                ),
                ("devices", models.JSONField(default=list)),
                ("ram_total", models.BigIntegerField(blank=True, help_text="Bytes", null=True)),
                ("ram_free", models.BigIntegerField(blank=True, null=True)),
                ("idle", models.BooleanField(default=False, help_text="Its running slot is free")),
                (
                    "running",
                    models.UUIDField(blank=True, help_text="Execution in the running slot", null=True),
                ),
                ("running_since", models.DateTimeField(blank=True, null=True)),
                ("staged", models.UUIDField(blank=True, null=True)),
                ("started_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("heartbeat_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "object_info",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        to="workflows.objectinfo",
                    ),
                ),
                (
                    "gpus",
                    models.JSONField(
                        default=list,
                        help_text="GPUs of its host, as reported by NVIDIA's driver: see gpus.figures",
                    ),
                ),
                (
                    "desired_state",
                    models.CharField(
                        choices=[("work", "Work"), ("pause", "Pause"), ("drain", "Drain")],
                        db_column="wish",
                        db_default="work",
                        default="work",
                        max_length=10,
                    ),
                ),
                ("desired_state_at", models.DateTimeField(blank=True, db_column="wished_at", null=True)),
            ],
        ),
        migrations.CreateModel(
            name="WebhookSecret",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "secret",
                    models.CharField(help_text="whsec_ and 32 random bytes in base64", max_length=100),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "expires_at",
                    models.DateTimeField(blank=True, help_text="Null: the current one", null=True),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="webhook_secrets",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("expires_at", None)),
                        fields=("user",),
                        name="webhook_secret_present",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Delta",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("metric", models.CharField(max_length=60)),
                (
                    "labels",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=200), default=list, size=None
                    ),
                ),
                (
                    "bucket",
                    models.IntegerField(
                        default=0, help_text="How many of the metric's bounds lie below the value"
                    ),
                ),
                ("count", models.BigIntegerField(default=1)),
                ("sum", models.FloatField(default=1)),
            ],
        ),
        migrations.CreateModel(
            name="Tally",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("metric", models.CharField(max_length=60)),
                (
                    "labels",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=200), default=list, size=None
                    ),
                ),
                ("bucket", models.IntegerField(default=0)),
                ("count", models.BigIntegerField()),
                ("sum", models.FloatField()),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("metric", "labels", "bucket"), name="tally_of_metric")
                ],
            },
        ),
        migrations.CreateModel(
            name="Flow",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "priority",
                    models.CharField(
                        choices=[("low", "Low"), ("normal", "Normal"), ("high", "High")], max_length=10
                    ),
                ),
                ("start", models.FloatField(help_text="The highest of those that were claimed")),
                ("finish", models.FloatField(help_text="The same")),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["-start"], name="flow_latest")],
                "constraints": [models.UniqueConstraint(fields=("user", "priority"), name="flow_once")],
            },
        ),
        migrations.CreateModel(
            name="Duty",
            fields=[
                ("name", models.CharField(max_length=50, primary_key=True, serialize=False)),
                ("due_at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Batch",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("total", models.IntegerField()),
                ("remaining", models.IntegerField(help_text="Executions that have not ended")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "completed_at",
                    models.DateTimeField(blank=True, help_text="When the last one ended", null=True),
                ),
                (
                    "app",
                    models.CharField(
                        blank=True, default="", help_text="owner/name; empty: a workflow", max_length=300
                    ),
                ),
                ("metadata", models.JSONField(default=dict)),
                ("webhook_url", models.TextField(blank=True, default="")),
                ("webhook_host", models.CharField(blank=True, default="", max_length=300)),
                ("webhook_base", models.CharField(blank=True, default="", max_length=500)),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="batches",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "batches",
                "indexes": [
                    models.Index(fields=["user", "-created_at", "id"], name="batch_of_user"),
                    models.Index(
                        condition=models.Q(("completed_at__isnull", False)),
                        fields=["completed_at"],
                        name="batch_ended",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="NodeRule",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "node",
                    models.CharField(
                        help_text="A node class (SaveLoRA), a module of custom nodes (custom_nodes.ComfyUI-Impact-Pack), or custom_nodes for all of them. The more specific rule wins",
                        max_length=200,
                    ),
                ),
                ("access", models.CharField(choices=[("allow", "Allow"), ("deny", "Deny")], max_length=10)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "group",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty with no user: everybody",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to="auth.group",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("user", None), ("group", None), _connector="OR"),
                        name="node_rule_for_user_or_group",
                    ),
                    models.UniqueConstraint(
                        fields=("node", "user", "group"), name="node_rule_once", nulls_distinct=False
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Execution",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "Pending"),
                            ("running", "Running"),
                            ("completed", "Completed"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="pending",
                        max_length=10,
                    ),
                ),
                (
                    "priority",
                    models.CharField(
                        choices=[("low", "Low"), ("normal", "Normal"), ("high", "High")],
                        default="normal",
                        max_length=10,
                    ),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("started_at", models.DateTimeField(blank=True, null=True)),
                ("completed_at", models.DateTimeField(blank=True, null=True)),
                ("timeout_minutes", models.IntegerField()),
                ("request_id", models.CharField(blank=True, default="", max_length=128)),
                ("turn", models.FloatField()),
                ("start", models.FloatField()),
                ("finish", models.FloatField()),
                ("cost", models.FloatField(help_text="Estimated GPU seconds")),
                (
                    "held",
                    models.CharField(
                        blank=True,
                        choices=[("backoff", "Backoff"), ("quota", "Quota")],
                        max_length=10,
                        null=True,
                    ),
                ),
                ("held_until", models.DateTimeField(blank=True, null=True)),
                ("claim_token", models.UUIDField(blank=True, null=True)),
                (
                    "worker",
                    models.CharField(
                        blank=True, default="", help_text="Backend of the last claim", max_length=200
                    ),
                ),
                ("claimed_at", models.DateTimeField(blank=True, null=True)),
                ("lease_expires_at", models.DateTimeField(blank=True, null=True)),
                (
                    "suspect_lease",
                    models.DateTimeField(
                        blank=True, help_text="The lease that the reaper saw expired", null=True
                    ),
                ),
                ("suspect_since", models.DateTimeField(blank=True, null=True)),
                ("attempt", models.IntegerField(default=0)),
                (
                    "posted_at",
                    models.DateTimeField(
                        blank=True, help_text="Since when its ComfyUI may have it", null=True
                    ),
                ),
                (
                    "boot",
                    models.CharField(
                        blank=True, default="", help_text="ComfyUI's run it was posted to", max_length=64
                    ),
                ),
                (
                    "faults",
                    models.IntegerField(default=0, help_text="Number of times its ComfyUI died while it ran"),
                ),
                (
                    "excluded",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=200),
                        blank=True,
                        default=list,
                        help_text="Backends that rejected it",
                        size=None,
                    ),
                ),
                ("current_step", models.IntegerField(default=0)),
                ("total_steps", models.IntegerField(default=0)),
                ("percentage", models.FloatField(default=0)),
                ("current_node", models.CharField(blank=True, max_length=200, null=True)),
                ("eta_seconds", models.FloatField(blank=True, null=True)),
                (
                    "kind",
                    models.CharField(
                        help_text="Same for workflows of about the same cost: see graph.parsing.kind_of",
                        max_length=32,
                    ),
                ),
                ("models_used", models.JSONField(default=list)),
                (
                    "metadata",
                    models.JSONField(default=dict, help_text="For queries; users are shown `metadata_text`"),
                ),
                ("webhook_url", models.TextField(blank=True, default="")),
                ("error", models.TextField(blank=True, null=True)),
                ("gpu_seconds", models.FloatField(blank=True, null=True)),
                (
                    "retried_from",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="retries",
                        to="workflows.execution",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="executions",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "warnings",
                    models.JSONField(default=list, help_text="Such as outputs that ComfyUI skipped"),
                ),
                ("returns", models.IntegerField(default=0, help_text="Number of requeues while it ran")),
                (
                    "lacking",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=200),
                        blank=True,
                        db_default=[],
                        default=list,
                        help_text="Backends without a node or model that another has: see queue.matching",
                        size=None,
                    ),
                ),
                (
                    "metadata_text",
                    models.TextField(
                        blank=True, db_default="", default="", help_text="JSON, exactly as sent"
                    ),
                ),
                (
                    "tries",
                    models.IntegerField(
                        db_default=0,
                        default=0,
                        help_text="Number of tries that failed for other reasons than its workflow",
                    ),
                ),
                (
                    "failure_cause",
                    models.CharField(
                        blank=True,
                        choices=[
                            ("node", "Node"),
                            ("out_of_memory", "Out Of Memory"),
                            ("timeout", "Timeout"),
                            ("refused", "Refused"),
                            ("input", "Input"),
                            ("unreadable", "Unreadable"),
                            ("given_up", "Given Up"),
                            ("not_taken", "Not Taken"),
                            ("outputs", "Outputs"),
                            ("other", "Other"),
                        ],
                        max_length=20,
                        null=True,
                    ),
                ),
                (
                    "app",
                    models.JSONField(
                        blank=True, help_text="Of a run of an app: see apps_catalog.running", null=True
                    ),
                ),
                ("batch_position", models.IntegerField(blank=True, null=True)),
                (
                    "batch",
                    models.ForeignKey(
                        blank=True,
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="executions",
                        to="workflows.batch",
                    ),
                ),
                (
                    "handled_alone",
                    models.BooleanField(
                        db_default=False,
                        default=False,
                        help_text="Its worker handles no other execution now: if the worker dies, this is the cause",
                    ),
                ),
                (
                    "losses",
                    models.IntegerField(
                        db_default=0, default=0, help_text="Number of times its worker died while holding it"
                    ),
                ),
                (
                    "has_input_files",
                    models.BooleanField(
                        db_default=True,
                        default=True,
                        help_text="Files are placed on its ComfyUI before it is posted",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("claim_token", None), ("held", None), ("status", "pending")),
                        fields=["turn", "created_at"],
                        name="execution_waiting",
                    ),
                    models.Index(
                        condition=models.Q(("held__isnull", False), ("status", "pending")),
                        fields=["held", "held_until"],
                        name="execution_held",
                    ),
                    models.Index(
                        condition=models.Q(("claim_token__isnull", False)),
                        fields=["worker"],
                        name="execution_claimed",
                    ),
                    models.Index(
                        condition=models.Q(("status__in", ["pending", "running"])),
                        fields=["user", "status"],
                        name="execution_alive",
                    ),
                    models.Index(
                        condition=models.Q(("status", "completed")),
                        fields=["kind", "-completed_at"],
                        name="execution_kind",
                    ),
                    models.Index(
                        condition=models.Q(("completed_at__isnull", False)),
                        fields=["completed_at"],
                        name="execution_ended",
                    ),
                    models.Index(
                        condition=models.Q(("status", "pending")),
                        fields=["priority", "created_at"],
                        name="execution_queue",
                    ),
                    models.Index(fields=["-created_at"], name="execution_latest"),
                    models.Index(
                        condition=models.Q(("completed_at__isnull", False)),
                        fields=["status", "-created_at"],
                        name="execution_outcome",
                    ),
                    models.Index(
                        condition=models.Q(("retried_from__isnull", False)),
                        fields=["retried_from"],
                        name="execution_retries",
                    ),
                    models.Index(fields=["user", "-created_at", "-id"], name="execution_of_user_latest"),
                    models.Index(
                        fields=["user", "status", "-created_at", "-id"], name="execution_of_user_status"
                    ),
                    models.Index(
                        condition=models.Q(("claimed_at__isnull", False)),
                        fields=["-start"],
                        name="execution_highest_start",
                    ),
                    models.Index(
                        condition=models.Q(("status", "completed")),
                        fields=["user", "kind", "-completed_at"],
                        name="execution_kind_of_user",
                    ),
                    models.Index(
                        condition=models.Q(("batch__isnull", False)),
                        fields=["batch", "batch_position"],
                        name="execution_batch",
                    ),
                    models.Index(
                        condition=models.Q(("claimed_at", None), ("status", "pending")),
                        fields=["user", "priority", "finish"],
                        name="execution_flow_waiting",
                    ),
                    models.Index(
                        condition=models.Q(("claimed_at__isnull", False)),
                        fields=["user", "priority", "finish"],
                        name="execution_flow_claimed",
                    ),
                    django.contrib.postgres.indexes.GinIndex(
                        condition=models.Q(("metadata", {}), _negated=True),
                        fields=["metadata"],
                        name="execution_metadata",
                    ),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("status__in", ["pending", "running"]), ("claim_token", None), _connector="OR"
                        ),
                        name="execution_ended_has_no_claim",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("status", "running"), _negated=True),
                            ("claim_token__isnull", False),
                            _connector="OR",
                        ),
                        name="execution_running_is_claimed",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Graph",
            fields=[
                (
                    "execution",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="graph",
                        serialize=False,
                        to="workflows.execution",
                    ),
                ),
                ("submitted", models.JSONField(help_text="As submitted")),
                ("prompt", models.JSONField(help_text="In ComfyUI's API format")),
                ("error_details", models.JSONField(blank=True, null=True)),
                (
                    "inputs",
                    models.JSONField(blank=True, help_text="Named values of an app or batch run", null=True),
                ),
                (
                    "extras",
                    models.JSONField(
                        db_default={},
                        default=dict,
                        help_text="`extra_data` and `partial_execution_targets` for ComfyUI",
                    ),
                ),
                (
                    "output",
                    models.JSONField(
                        db_default={},
                        default=dict,
                        help_text="Requested output options: see api.serializers.OutputOptions",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="LogLine",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("timestamp", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "level",
                    models.CharField(
                        choices=[
                            ("DEBUG", "Debug"),
                            ("INFO", "Info"),
                            ("WARNING", "Warning"),
                            ("ERROR", "Error"),
                        ],
                        max_length=10,
                    ),
                ),
                ("message", models.TextField()),
                ("node_id", models.CharField(blank=True, max_length=200, null=True)),
                (
                    "execution",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="log_lines",
                        to="workflows.execution",
                    ),
                ),
                (
                    "data",
                    models.JSONField(blank=True, help_text="Additional data for the live stream", null=True),
                ),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("log", "Log"),
                            ("status", "Status"),
                            ("node", "Node"),
                            ("output", "Output"),
                        ],
                        db_default="log",
                        default="log",
                        max_length=10,
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["execution", "id"], name="log_of_execution")],
            },
        ),
        migrations.CreateModel(
            name="Output",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("position", models.IntegerField()),
                (
                    "group",
                    models.CharField(help_text="images, videos, audio, 3d, texts, files", max_length=20),
                ),
                ("node_id", models.CharField(max_length=200)),
                ("subfolder", models.CharField(blank=True, default="", max_length=500)),
                (
                    "temporary",
                    models.BooleanField(
                        default=False, help_text="A preview, which ComfyUI itself does not keep"
                    ),
                ),
                ("text", models.TextField(null=True)),
                (
                    "execution",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="outputs",
                        to="workflows.execution",
                    ),
                ),
                (
                    "file",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="outputs",
                        to="files.file",
                    ),
                ),
                (
                    "converted",
                    models.ForeignKey(
                        db_constraint=False,
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="outputs",
                        to="files.convertedfile",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("converted__isnull", False)),
                        fields=["converted"],
                        name="output_converted",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("execution", "position"), name="output_of_execution")
                ],
            },
        ),
        migrations.CreateModel(
            name="Webhook",
            fields=[
                (
                    "execution",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="webhook",
                        serialize=False,
                        to="workflows.execution",
                    ),
                ),
                ("url", models.TextField()),
                (
                    "host",
                    models.CharField(
                        help_text="Host and port, for the limit of concurrent deliveries per host",
                        max_length=300,
                    ),
                ),
                (
                    "events",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("workflow.started", "Started"),
                                ("workflow.completed", "Completed"),
                                ("workflow.failed", "Failed"),
                                ("workflow.cancelled", "Cancelled"),
                                ("workflow.delivered", "Delivered"),
                                ("batch.completed", "Batch Completed"),
                            ],
                            max_length=20,
                        ),
                        size=None,
                    ),
                ),
                (
                    "base",
                    models.CharField(
                        help_text="Our base URL as the submitter used it, for links", max_length=500
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "event",
                    models.CharField(
                        choices=[
                            ("workflow.started", "Started"),
                            ("workflow.completed", "Completed"),
                            ("workflow.failed", "Failed"),
                            ("workflow.cancelled", "Cancelled"),
                            ("workflow.delivered", "Delivered"),
                            ("batch.completed", "Batch Completed"),
                        ],
                        max_length=20,
                    ),
                ),
                (
                    "message_id",
                    models.CharField(
                        default=workflows.models.webhook.new_message_id,
                        help_text="The header webhook-id, the same on each try",
                        max_length=40,
                    ),
                ),
                ("url", models.TextField()),
                ("host", models.CharField(max_length=300)),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("delivered", "Delivered"), ("failed", "Failed")],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("error", models.TextField(blank=True, default="", help_text="Of the last try")),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="When it happened: the body's timestamp",
                    ),
                ),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                ("due_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "retried_since",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="Start of the retry period",
                    ),
                ),
                ("tries", models.IntegerField(db_default=0, default=0)),
                ("token", models.UUIDField(blank=True, null=True)),
                ("taken_until", models.DateTimeField(blank=True, null=True)),
                (
                    "execution",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="deliveries",
                        to="workflows.execution",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "waiting")), fields=["due_at"], name="delivery_waiting"
                    )
                ],
                "constraints": [models.UniqueConstraint(fields=("execution", "event"), name="delivery_once")],
            },
        ),
        migrations.CreateModel(
            name="DeliveryAttempt",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("status_code", models.IntegerField(blank=True, help_text="Null: no response", null=True)),
                ("duration_ms", models.IntegerField()),
                ("answer", models.TextField(blank=True, default="", help_text="The first kilobyte")),
                ("error", models.TextField(blank=True, default="")),
                (
                    "delivery",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="attempts",
                        to="workflows.delivery",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="OutputDelivery",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                (
                    "filename",
                    models.CharField(help_text="Unique among those of the execution", max_length=800),
                ),
                (
                    "secret_url",
                    models.TextField(
                        blank=True,
                        default="",
                        help_text="The URL given for it, encrypted; empty once it has ended",
                    ),
                ),
                ("url", models.TextField(blank=True, default="", help_text="Without secrets")),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("delivered", "Delivered"), ("failed", "Failed")],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("error", models.TextField(blank=True, default="", help_text="Of the last try")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                ("due_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("tries", models.IntegerField(default=0)),
                ("token", models.UUIDField(blank=True, null=True)),
                ("taken_until", models.DateTimeField(blank=True, null=True)),
                (
                    "destination",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to="files.destination",
                    ),
                ),
                (
                    "execution",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="output_deliveries",
                        to="workflows.execution",
                    ),
                ),
                (
                    "output",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="delivery",
                        to="workflows.output",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "retried_since",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="Tries are counted from here on",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "output deliveries",
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "waiting")),
                        fields=["due_at"],
                        name="output_delivery_waiting",
                    ),
                    models.Index(
                        condition=models.Q(("state", "failed")),
                        fields=["destination", "id"],
                        name="output_delivery_failed",
                    ),
                ],
            },
        ),
        migrations.RunSQL(UPDATED_OFTEN, migrations.RunSQL.noop),
        *(migrations.RunSQL(VACUUM_EARLY.format(table), migrations.RunSQL.noop) for table in VACUUMED_EARLY),
        migrations.RunPython(make_operator_groups, migrations.RunPython.noop),
    ]
