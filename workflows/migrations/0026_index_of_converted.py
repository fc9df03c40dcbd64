from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("workflows", "0025_outputs_as_wanted"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="output",
            index=models.Index(
                condition=models.Q(("converted__isnull", False)),
                fields=["converted"],
                name="output_converted",
            ),
        ),
    ]
