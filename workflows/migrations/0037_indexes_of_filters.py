import django.contrib.postgres.indexes
import django.db.models.fields.json
import django.db.models.functions.comparison
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False  # indexes of a large table are made beside its use

    dependencies = [
        ("workflows", "0036_outputs_failure_cause"),
    ]

    operations = [
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("worker", ""), _negated=True),
                fields=["worker", "-created_at"],
                name="execution_of_worker",
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                condition=models.Q(("priority", "normal"), _negated=True),
                fields=["priority", "-created_at"],
                name="execution_of_priority",
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                django.db.models.functions.comparison.Coalesce("failure_cause", models.Value("other")),
                models.OrderBy(models.F("created_at"), descending=True),
                condition=models.Q(("status", "failed")),
                name="execution_of_cause",
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=django.contrib.postgres.indexes.GinIndex(
                fastupdate=False,
                fields=["models_used"],
                name="execution_of_model",
                opclasses=["jsonb_path_ops"],
            ),
        ),
        AddIndexConcurrently(
            model_name="execution",
            index=models.Index(
                models.F("user"),
                django.db.models.fields.json.KeyTransform("name", "app"),
                models.OrderBy(models.F("created_at"), descending=True),
                models.OrderBy(models.F("id"), descending=True),
                condition=models.Q(("app__isnull", False)),
                name="execution_of_app",
            ),
        ),
    ]
