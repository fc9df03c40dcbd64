from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [("workflows", "0031_output_delivery_retried_since")]

    operations = [
        AddIndexConcurrently(
            model_name="outputdelivery",
            index=models.Index(
                condition=models.Q(("state", "failed")),
                fields=["destination", "id"],
                name="output_delivery_failed",
            ),
        ),
    ]
