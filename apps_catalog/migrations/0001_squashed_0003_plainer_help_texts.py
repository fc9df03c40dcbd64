import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
from django.conf import settings
from django.db import migrations, models

GRANTED = {
    "Operators (read only)": [("view", "app"), ("view", "appversion")],
    "Operators": [("view", "app"), ("view", "appversion"), ("delete", "app")],
}


def grant(apps, _):
    """Django creates permissions only after all migrations, so these are created here."""
    for name, permissions in GRANTED.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        for action, model in permissions:
            kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
                app_label="apps_catalog", model=model
            )
            verbose_name = apps.get_model("apps_catalog", model)._meta.verbose_name
            permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
                content_type=kind,
                codename=f"{action}_{model}",
                defaults={"name": f"Can {action} {verbose_name}"},
            )
            group.permissions.add(permission)


class Migration(migrations.Migration):
    replaces = [
        ("apps_catalog", "0001_initial"),
        ("apps_catalog", "0002_operators_see_apps"),
        ("apps_catalog", "0003_plainer_help_texts"),
    ]

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("workflows", "0001_squashed_0036_outputs_failure_cause"),
    ]

    operations = [
        migrations.CreateModel(
            name="App",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(help_text="Unique among the owner's apps", max_length=63)),
                ("title", models.CharField(max_length=200)),
                ("description", models.TextField(blank=True, default="")),
                (
                    "visibility",
                    models.CharField(
                        choices=[("private", "Private"), ("group", "Group"), ("everybody", "Everybody")],
                        default="private",
                        max_length=10,
                    ),
                ),
                (
                    "show_workflow",
                    models.BooleanField(
                        default=False, help_text="Users who may run it may also see its workflow"
                    ),
                ),
                ("latest", models.IntegerField(default=1, help_text="Number of its newest version")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "updated_at",
                    models.DateTimeField(blank=True, help_text="Null until the first change", null=True),
                ),
                (
                    "group",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="apps",
                        to="auth.group",
                    ),
                ),
                (
                    "owner",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="apps",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(
                        condition=models.Q(("visibility", "everybody")),
                        fields=["id"],
                        name="app_of_everybody",
                    )
                ],
                "constraints": [models.UniqueConstraint(fields=("owner", "name"), name="app_name_of_owner")],
            },
        ),
        migrations.CreateModel(
            name="AppVersion",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("number", models.IntegerField()),
                ("workflow", models.JSONField(help_text="As submitted")),
                (
                    "prompt",
                    models.JSONField(help_text="In ComfyUI's API format, with the default of each input"),
                ),
                ("inputs", models.JSONField(help_text="Parameters: see parameters.Parameter")),
                ("outputs", models.JSONField(help_text="Named outputs: see parameters.NamedOutput")),
                (
                    "files",
                    models.JSONField(
                        default=list, help_text="Ids of files that the workflow or its defaults name"
                    ),
                ),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                (
                    "app",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="versions",
                        to="apps_catalog.app",
                    ),
                ),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("app", "number"), name="version_of_app")],
            },
        ),
        migrations.RunPython(grant, migrations.RunPython.noop),
    ]
