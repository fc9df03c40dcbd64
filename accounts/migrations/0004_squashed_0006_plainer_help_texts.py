from django.db import migrations, models


class Migration(migrations.Migration):
    replaces = [
        ("accounts", "0004_key_scope"),
        ("accounts", "0005_history_cleared_at"),
        ("accounts", "0006_plainer_help_texts"),
    ]

    dependencies = [
        ("accounts", "0001_squashed_0002_audit_log"),
        ("workflows", "0001_squashed_0036_outputs_failure_cause"),  # replaces 0003
    ]

    operations = [
        migrations.AddField(
            model_name="apikey",
            name="scope",
            field=models.CharField(
                choices=[("all", "everything"), ("comfyui", "ComfyUI's routes only")],
                db_default="all",
                default="all",
                max_length=20,
            ),
        ),
        migrations.AddField(
            model_name="user",
            name="history_cleared_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="ComfyUI's routes hide history before this time",
                null=True,
            ),
        ),
    ]
