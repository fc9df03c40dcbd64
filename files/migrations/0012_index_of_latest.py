from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [
        ("files", "0011_plainer_help_texts"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="file",
            index=models.Index(fields=["-created_at"], name="file_latest"),
        ),
        AddIndexConcurrently(
            model_name="file",
            index=models.Index(
                condition=models.Q(("kind", "upload")), fields=["-created_at"], name="file_latest_upload"
            ),
        ),
    ]
