from __future__ import annotations

from django.db import migrations

GRANTED = {
    "Operators (read only)": [("view", "app"), ("view", "appversion")],
    "Operators": [("view", "app"), ("view", "appversion"), ("delete", "app")],
}


def grant(apps, _):
    """Permissions are made by Django only after all migrations, so these are made here."""
    for name, permissions in GRANTED.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        for action, model in permissions:
            kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
                app_label="apps_catalog", model=model
            )
            said = apps.get_model("apps_catalog", model)._meta.verbose_name
            permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
                content_type=kind, codename=f"{action}_{model}", defaults={"name": f"Can {action} {said}"}
            )
            group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_operator_groups"),
        ("apps_catalog", "0001_initial"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [migrations.RunPython(grant, migrations.RunPython.noop)]
