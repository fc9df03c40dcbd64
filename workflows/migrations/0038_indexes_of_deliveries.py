from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [
        ("files", "0012_index_of_latest"),
        ("workflows", "0037_indexes_of_filters"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="delivery",
            index=models.Index(
                condition=models.Q(("state", "failed")), fields=["-id"], name="delivery_failed"
            ),
        ),
        AddIndexConcurrently(
            model_name="delivery",
            index=models.Index(fields=["user", "-id"], name="delivery_of_user"),
        ),
        AddIndexConcurrently(
            model_name="delivery",
            index=models.Index(fields=["host", "-id"], name="delivery_to_host"),
        ),
        AddIndexConcurrently(
            model_name="delivery",
            index=models.Index(fields=["message_id"], name="delivery_of_message"),
        ),
        AddIndexConcurrently(
            model_name="outputdelivery",
            index=models.Index(fields=["user", "-id"], name="output_delivery_of_user"),
        ),
    ]
