from django.contrib.postgres.indexes import GinIndex, OpClass
from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models

from workflows.models.own_metadata import OwnMetadata


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [
        ("workflows", "0040_filters_by_app"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=GinIndex(
                OpClass(OwnMetadata(), name="jsonb_path_ops"),
                condition=models.Q(("metadata", {}), _negated=True),
                fastupdate=False,
                name="execution_own_metadata",
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("metadata__has_key", "openai_video")),
                fields=["user", "-created_at", "-id"],
                name="execution_of_user_video",
            ),
        ),
        # Only the two filters above used it: without it the version before this one is slower, but works.
        RemoveIndexConcurrently(model_name="execution", name="execution_metadata"),
    ]
