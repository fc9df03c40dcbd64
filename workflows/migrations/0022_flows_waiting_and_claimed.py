from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    """The two new indexes together serve the queries of the old one."""

    atomic = False

    dependencies = [
        ("workflows", "0021_operators_edit_node_rules"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("claimed_at", None), ("status", "pending")),
                fields=["user", "priority", "finish"],
                name="execution_flow_waiting",
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("claimed_at__isnull", False)),
                fields=["user", "priority", "finish"],
                name="execution_flow_claimed",
            ),
        ),
        RemoveIndexConcurrently(model_name="execution", name="execution_flow"),
    ]
