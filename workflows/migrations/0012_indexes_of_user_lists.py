from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """The new index serves the queries of the old one too, so the version before is not slowed down."""

    atomic = False

    dependencies = [
        ("workflows", "0011_plainer_help_texts"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(fields=["user", "-created_at", "-id"], name="execution_of_user_latest"),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                fields=["user", "status", "-created_at", "-id"], name="execution_of_user_status"
            ),
        ),
        RemoveIndexConcurrently(model_name="execution", name="execution_of_user"),
    ]
