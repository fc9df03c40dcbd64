from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """The new index serves the queries of the old one too, so the version before is not slowed down."""

    atomic = False

    dependencies = [
        ("files", "0002_shared_bytes_thumbnails_and_pins"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="file",
            index=models.Index(
                fields=["user", "-created_at", "id"], include=["expires_at"], name="file_of_user_latest"
            ),
        ),
        AddIndexConcurrently(
            model_name="file",
            index=models.Index(
                fields=["user", "kind", "-created_at", "id"], include=["expires_at"], name="file_of_user_kind"
            ),
        ),
        RemoveIndexConcurrently(model_name="file", name="file_of_user"),
    ]
