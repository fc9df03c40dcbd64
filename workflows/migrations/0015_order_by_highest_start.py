from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes are made beside running queries

    dependencies = [("workflows", "0014_duties_and_tries")]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("claimed_at__isnull", False)),
                fields=["-start"],
                name="execution_highest_start",
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("status", "completed")),
                fields=["user", "kind", "-completed_at"],
                name="execution_kind_of_user",
            ),
        ),
        RemoveIndexConcurrently(model_name="execution", name="execution_last_claimed"),
    ]
