from django.db import migrations, models

import comfyserve.ids


class Migration(migrations.Migration):
    dependencies = [
        ("workflows", "0038_indexes_of_deliveries"),
    ]

    operations = [
        migrations.AlterField(
            model_name="batch",
            name="id",
            field=models.UUIDField(default=comfyserve.ids.uuid7, primary_key=True, serialize=False),
        ),
        migrations.AlterField(
            model_name="execution",
            name="id",
            field=models.UUIDField(default=comfyserve.ids.uuid7, primary_key=True, serialize=False),
        ),
    ]
