import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

import files.models


class Migration(migrations.Migration):
    replaces = [
        ("files", "0001_initial"),
        ("files", "0002_shared_bytes_thumbnails_and_pins"),
        ("files", "0003_indexes_of_user_lists"),
        ("files", "0004_duration"),
        ("files", "0005_blake3"),
        ("files", "0006_index_of_blake3"),
        ("files", "0007_converted_files"),
        ("files", "0008_destinations"),
        ("files", "0009_user_data"),
        ("files", "0010_tags"),
        ("files", "0011_plainer_help_texts"),
    ]

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="File",
            fields=[
                (
                    "id",
                    models.CharField(
                        default=files.models.new_file_id, max_length=40, primary_key=True, serialize=False
                    ),
                ),
                (
                    "kind",
                    models.CharField(choices=[("upload", "Upload"), ("output", "Output")], max_length=10),
                ),
                ("filename", models.CharField(help_text="Cleaned for display; never a path", max_length=255)),
                ("description", models.CharField(blank=True, default="", max_length=1000)),
                (
                    "content_type",
                    models.CharField(
                        help_text="Detected from the content, whatever the sender says", max_length=100
                    ),
                ),
                ("size", models.BigIntegerField(help_text="Bytes")),
                ("sha256", models.CharField(max_length=64)),
                (
                    "key",
                    models.CharField(
                        help_text="Name in the storage; files with equal bytes share it", max_length=255
                    ),
                ),
                (
                    "width",
                    models.IntegerField(blank=True, help_text="Pixels; null if it has none", null=True),
                ),
                ("height", models.IntegerField(blank=True, null=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="files",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("thumbnail_key", models.CharField(blank=True, default="", max_length=255)),
                (
                    "duration_seconds",
                    models.FloatField(blank=True, help_text="Of videos and sounds", null=True),
                ),
                (
                    "blake3",
                    models.CharField(
                        blank=True,
                        db_default="",
                        default="",
                        help_text="Empty for files of earlier versions",
                        max_length=64,
                    ),
                ),
                (
                    "tags",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(max_length=100),
                        db_default=[],
                        default=list,
                        help_text="Given with the upload",
                        size=None,
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(fields=["user", "sha256"], name="file_of_content"),
                    models.Index(fields=["key"], name="file_of_key"),
                    models.Index(
                        condition=models.Q(("expires_at__isnull", False)),
                        fields=["expires_at"],
                        name="file_expiring",
                    ),
                    models.Index(
                        fields=["user", "-created_at", "id"],
                        include=("expires_at",),
                        name="file_of_user_latest",
                    ),
                    models.Index(
                        fields=["user", "kind", "-created_at", "id"],
                        include=("expires_at",),
                        name="file_of_user_kind",
                    ),
                    models.Index(
                        condition=models.Q(("blake3", ""), _negated=True),
                        fields=["user", "blake3"],
                        name="file_of_blake3",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Pin",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("holder", models.UUIDField(help_text="An execution")),
                (
                    "file",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="pins",
                        to="files.file",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("file", "holder"), name="pin_once")],
            },
        ),
        migrations.CreateModel(
            name="ConvertedFile",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("source_key", models.CharField(help_text="Key of the original bytes", max_length=255)),
                (
                    "parameters",
                    models.CharField(help_text="See conversion.ConversionOptions.parameters", max_length=60),
                ),
                (
                    "key",
                    models.CharField(blank=True, default="", help_text="Name in the storage", max_length=255),
                ),
                ("content_type", models.CharField(blank=True, default="", max_length=100)),
                ("size", models.BigIntegerField(default=0, help_text="Bytes")),
                ("sha256", models.CharField(blank=True, default="", max_length=64)),
                ("width", models.IntegerField(blank=True, null=True)),
                ("height", models.IntegerField(blank=True, null=True)),
                ("duration_seconds", models.FloatField(blank=True, null=True)),
                ("error", models.TextField(blank=True, default="", help_text="Why the conversion failed")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("token", models.UUIDField(blank=True, null=True)),
                ("taken_until", models.DateTimeField(blank=True, null=True)),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("key", ""), _negated=True),
                        fields=["key"],
                        name="converted_of_key",
                    ),
                    models.Index(fields=["created_at"], name="converted_latest"),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("source_key", "parameters"), name="converted_once")
                ],
            },
        ),
        migrations.CreateModel(
            name="Destination",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=63)),
                (
                    "endpoint",
                    models.CharField(help_text="Such as https://s3.eu-west-1.amazonaws.com", max_length=500),
                ),
                ("region", models.CharField(max_length=63)),
                ("bucket", models.CharField(max_length=255)),
                (
                    "prefix",
                    models.CharField(
                        blank=True, default="", help_text="A folder in the bucket", max_length=255
                    ),
                ),
                ("access_key", models.CharField(max_length=255)),
                ("secret", models.TextField(help_text="Encrypted: see comfyserve.secret_box")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "updated_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        help_text="When it was saved and tested",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="destinations",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("user", "name"), name="destination_of_user")],
            },
        ),
        migrations.CreateModel(
            name="UserData",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("path", models.CharField(help_text="Relative, with forward slashes", max_length=255)),
                ("content", models.BinaryField()),
                ("size", models.IntegerField(help_text="Bytes")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("modified_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
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
                "constraints": [models.UniqueConstraint(fields=("user", "path"), name="user_data_path")],
            },
        ),
    ]
