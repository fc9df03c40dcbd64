from __future__ import annotations

import django.db.models.functions.datetime
from django.db import migrations, models

# Whoever may write to the database through us can add rows; retention deletes old ones.
REFUSE_UPDATES = """
CREATE FUNCTION accounts_auditentry_is_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of the audit log are never changed';
END $$;
CREATE TRIGGER accounts_auditentry_is_final BEFORE UPDATE ON accounts_auditentry
FOR EACH ROW EXECUTE FUNCTION accounts_auditentry_is_final();
"""
ALLOW_UPDATES = """
DROP TRIGGER accounts_auditentry_is_final ON accounts_auditentry;
DROP FUNCTION accounts_auditentry_is_final();
"""


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "actor",
                    models.BigIntegerField(
                        blank=True, help_text="The user's id; null: nobody is known", null=True
                    ),
                ),
                (
                    "who",
                    models.CharField(
                        blank=True, default="", help_text="The user's e-mail address then", max_length=254
                    ),
                ),
                (
                    "via",
                    models.CharField(
                        choices=[("admin", "Admin"), ("api", "Api"), ("system", "System")],
                        default="system",
                        max_length=10,
                    ),
                ),
                ("address", models.GenericIPAddressField(blank=True, null=True)),
                ("request_id", models.CharField(blank=True, default="", max_length=128)),
                ("action", models.CharField(help_text="Such as login or worker.pause", max_length=60)),
                ("object_type", models.CharField(blank=True, default="", max_length=60)),
                ("object_id", models.CharField(blank=True, default="", max_length=200)),
                ("object_name", models.CharField(blank=True, default="", max_length=200)),
                (
                    "changes",
                    models.JSONField(default=dict, help_text="Field -> [old, new]; secrets are masked"),
                ),
                ("note", models.CharField(blank=True, default="", max_length=500)),
            ],
            options={
                "verbose_name_plural": "audit entries",
                "default_permissions": ("view",),
                "indexes": [
                    models.Index(fields=["at"], name="audit_at"),
                    models.Index(fields=["object_type", "object_id"], name="audit_object"),
                ],
            },
        ),
        migrations.RunSQL(REFUSE_UPDATES, ALLOW_UPDATES),
    ]
