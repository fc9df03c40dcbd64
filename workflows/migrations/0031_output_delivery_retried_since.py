from django.db import migrations, models
from django.db.models.functions import Now


class Migration(migrations.Migration):
    dependencies = [("workflows", "0030_index_of_metadata")]

    operations = [
        migrations.AddField(
            model_name="outputdelivery",
            name="retried_since",
            field=models.DateTimeField(db_default=Now(), help_text="Tries are counted from here on"),
        ),
    ]
