from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [
        ("workflows", "0041_labels_of_users"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("metadata", {}), _negated=True),
                fields=["user", "-created_at", "-id"],
                name="execution_of_user_labelled",
            ),
        ),
    ]
