from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [("workflows", "0017_apps_and_batches")]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("batch__isnull", False)),
                fields=["batch", "batch_position"],
                name="execution_batch",
            ),
        ),
    ]
