from django.db import migrations, models

STATES = [("work", "Work"), ("pause", "Pause"), ("drain", "Drain")]


class Migration(migrations.Migration):
    """Renames the fields in the code only: the columns keep their names, which the old version uses."""

    dependencies = [
        ("workflows", "0033_operators_see_deliveries"),
    ]

    operations = [
        migrations.AlterField(
            model_name="worker",
            name="wish",
            field=models.CharField(
                choices=STATES, db_column="wish", db_default="work", default="work", max_length=10
            ),
        ),
        migrations.AlterField(
            model_name="worker",
            name="wished_at",
            field=models.DateTimeField(blank=True, db_column="wished_at", null=True),
        ),
        migrations.RenameField(model_name="worker", old_name="wish", new_name="desired_state"),
        migrations.RenameField(model_name="worker", old_name="wished_at", new_name="desired_state_at"),
    ]
