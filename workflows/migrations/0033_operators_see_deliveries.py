from __future__ import annotations

from django.db import migrations

VIEW = [("view", "files", "destination"), ("view", "workflows", "outputdelivery")]
CHANGE = [("change", "files", "destination"), ("change", "workflows", "outputdelivery")]
GRANTED = {"Operators (read only)": VIEW, "Operators": VIEW + CHANGE}


def grant(apps, _):
    """Permissions are made by Django only after all migrations, so these are made here."""
    for name, permissions in GRANTED.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        for action, app, model in permissions:
            kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
                app_label=app, model=model
            )
            said = apps.get_model(app, model)._meta.verbose_name
            permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
                content_type=kind, codename=f"{action}_{model}", defaults={"name": f"Can {action} {said}"}
            )
            group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_operator_groups"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("files", "0008_destinations"),
        ("workflows", "0032_index_of_failed_deliveries"),
    ]
    operations = [migrations.RunPython(grant, migrations.RunPython.noop)]
