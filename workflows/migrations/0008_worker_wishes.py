from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("workflows", "0007_operators_list"),
    ]

    operations = [
        migrations.AddField(
            model_name="worker",
            name="wish",
            field=models.CharField(
                choices=[("work", "Work"), ("pause", "Pause"), ("drain", "Drain")],
                db_default="work",
                default="work",
                max_length=10,
            ),
        ),
        migrations.AddField(
            model_name="worker",
            name="wished_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name="worker",
            name="state",
            field=models.CharField(
                choices=[
                    ("active", "Active"),
                    ("paused", "Paused"),
                    ("faulty", "Faulty"),
                    ("draining", "Draining"),
                    ("drained", "Drained"),
                ],
                default="active",
                max_length=10,
            ),
        ),
        # Until now the state was written by operators as well.
        migrations.RunSQL(
            "UPDATE workflows_worker SET wish = 'pause' WHERE state = 'paused'", migrations.RunSQL.noop
        ),
    ]
