from __future__ import annotations

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("files", "0005_blake3"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="file",
            index=models.Index(
                condition=models.Q(("blake3", ""), _negated=True),
                fields=["user", "blake3"],
                name="file_of_blake3",
            ),
        ),
    ]
