from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("workflows", "0015_order_by_highest_start")]

    operations = [
        migrations.AddField(
            model_name="execution",
            name="failure_cause",
            field=models.CharField(
                blank=True,
                choices=[
                    ("node", "Node"),
                    ("out_of_memory", "Out Of Memory"),
                    ("timeout", "Timeout"),
                    ("refused", "Refused"),
                    ("input", "Input"),
                    ("unreadable", "Unreadable"),
                    ("given_up", "Given Up"),
                    ("not_taken", "Not Taken"),
                    ("other", "Other"),
                ],
                max_length=20,
                null=True,
            ),
        ),
    ]
