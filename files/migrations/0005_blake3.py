from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("files", "0004_duration"),
    ]

    operations = [
        migrations.AddField(
            model_name="file",
            name="blake3",
            field=models.CharField(
                blank=True,
                db_default="",
                default="",
                help_text="Empty for files of earlier versions",
                max_length=64,
            ),
        ),
    ]
