from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models
from django.db.models.fields.json import KeyTransform


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [
        ("workflows", "0039_ids_in_order_of_time"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                models.F("user"),
                KeyTransform("name", "app"),
                models.F("status"),
                models.OrderBy(models.F("created_at"), descending=True),
                models.OrderBy(models.F("id"), descending=True),
                condition=models.Q(("app__isnull", False)),
                name="execution_of_app_status",
            ),
        ),
        # Users mostly run their own apps. Without these statistics PostgreSQL expects every user to run every app,
        # so few rows of one user that it fetches and sorts all of them to count the newest.
        migrations.RunSQL(
            [
                "CREATE STATISTICS IF NOT EXISTS execution_app_of_user"
                " ON user_id, (app -> 'name') FROM workflows_execution",
                "ANALYZE workflows_execution",
            ],
            "DROP STATISTICS execution_app_of_user",
        ),
    ]
