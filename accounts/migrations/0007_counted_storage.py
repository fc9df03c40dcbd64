import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0006_plainer_help_texts"),
    ]

    operations = [
        migrations.CreateModel(
            name="CountedStorage",
            fields=[
                (
                    "user",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                ("moment", models.DateTimeField()),
                (
                    "size",
                    models.BigIntegerField(help_text="Bytes of files and graphs created before the moment"),
                ),
                ("counted_at", models.DateTimeField(help_text="When all of them were last added up")),
            ],
        ),
    ]
