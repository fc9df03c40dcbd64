from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("workflows", "0013_metadata_as_sent")]

    operations = [
        migrations.CreateModel(
            name="Duty",
            fields=[
                ("name", models.CharField(max_length=50, primary_key=True, serialize=False)),
                ("due_at", models.DateTimeField()),
            ],
        ),
        migrations.AddField(
            model_name="execution",
            name="tries",
            field=models.IntegerField(
                db_default=0, default=0, help_text="Times a try failed through no fault of its workflow"
            ),
        ),
    ]
