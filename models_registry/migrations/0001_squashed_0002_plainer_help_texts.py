import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [("models_registry", "0001_initial"), ("models_registry", "0002_plainer_help_texts")]

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Host",
            fields=[
                ("name", models.CharField(max_length=200, primary_key=True, serialize=False)),
                (
                    "boot",
                    models.CharField(
                        blank=True, default="", help_text="Changes when ComfyUI restarts", max_length=64
                    ),
                ),
                ("bridge", models.BooleanField(default=False, help_text="It has our custom node")),
                ("places", models.JSONField(default=dict, help_text="Folder name -> directories")),
                ("total_bytes", models.BigIntegerField(default=0, help_text="Memory of the device")),
                ("free_bytes", models.BigIntegerField(default=0)),
                ("used_bytes", models.BigIntegerField(default=0, help_text="Of models on the device")),
                (
                    "process_bytes",
                    models.BigIntegerField(blank=True, help_text="Resident size of ComfyUI", null=True),
                ),
                ("reported_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name="Model",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("type", models.CharField(max_length=50)),
                ("name", models.CharField(help_text="With subfolders, '/' between them", max_length=500)),
                ("description", models.TextField(blank=True, default="")),
                ("last_used", models.DateTimeField(blank=True, help_text="By an execution", null=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("name", "type"), name="model_by_name")],
            },
        ),
        migrations.CreateModel(
            name="Command",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[("load", "Load"), ("unload", "Unload"), ("cleanup", "Cleanup")],
                        max_length=10,
                    ),
                ),
                ("type", models.CharField(blank=True, default="", max_length=50)),
                ("name", models.CharField(blank=True, default="", max_length=500)),
                ("arguments", models.JSONField(default=dict)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("taken", "Taken"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                        ],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("answer", models.JSONField(default=dict)),
                ("error", models.TextField(blank=True, default="")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                (
                    "host",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="commands",
                        to="models_registry.host",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("state__in", ["waiting", "taken"])),
                        fields=["host", "created_at"],
                        name="model_command_open",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Download",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("url", models.TextField()),
                (
                    "sha256",
                    models.CharField(
                        blank=True, default="", help_text="As the caller expects it", max_length=64
                    ),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting"),
                            ("running", "Running"),
                            ("done", "Done"),
                            ("failed", "Failed"),
                            ("cancelled", "Cancelled"),
                        ],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                ("bytes_done", models.BigIntegerField(default=0)),
                (
                    "bytes_total",
                    models.BigIntegerField(
                        blank=True, help_text="Null if the source does not say", null=True
                    ),
                ),
                ("error", models.TextField(blank=True, default="")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "host",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="downloads",
                        to="models_registry.host",
                    ),
                ),
                (
                    "model",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="downloads",
                        to="models_registry.model",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("state__in", ["waiting", "running"])),
                        fields=["host"],
                        name="model_download_open",
                    ),
                    models.Index(fields=["model", "-created_at"], name="model_download_latest"),
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("state__in", ["waiting", "running"])),
                        fields=("model", "host"),
                        name="model_download_once",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="ModelFile",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("folder", models.CharField(help_text="ComfyUI's name", max_length=50)),
                ("path", models.TextField()),
                ("size", models.BigIntegerField()),
                ("changed", models.FloatField(help_text="Time of change, seconds since the epoch")),
                (
                    "sha256",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Empty: not computed yet; -: the file cannot be read",
                        max_length=64,
                    ),
                ),
                ("metadata", models.JSONField(blank=True, help_text="Null: header not read yet", null=True)),
                ("loaded_bytes", models.BigIntegerField(default=0, help_text="On the device")),
                ("ram_bytes", models.BigIntegerField(default=0, help_text="Held in RAM only")),
                (
                    "loaded_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When it was first seen in memory since it was loaded",
                        null=True,
                    ),
                ),
                (
                    "host",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="files",
                        to="models_registry.host",
                    ),
                ),
                (
                    "model",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="files",
                        to="models_registry.model",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("loaded_bytes__gt", 0), ("ram_bytes__gt", 0), _connector="OR"),
                        fields=["host"],
                        name="model_file_in_memory",
                    )
                ],
                "constraints": [models.UniqueConstraint(fields=("model", "host"), name="model_file_on_host")],
            },
        ),
    ]
