from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [("workflows", "0029_output_delivery")]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=GinIndex(
                condition=models.Q(("metadata", {}), _negated=True),
                fields=["metadata"],
                name="execution_metadata",
            ),
        ),
    ]
