from __future__ import annotations

from django.db import migrations

GRANTED = {"Operators (read only)": ["view"], "Operators": ["view", "add", "change", "delete"]}


def grant(apps, _):
    """Permissions are made by Django only after all migrations, so these are made here."""
    kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
        app_label="workflows", model="noderule"
    )
    for name, actions in GRANTED.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        for action in actions:
            permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
                content_type=kind,
                codename=f"{action}_noderule",
                defaults={"name": f"Can {action} node rule"},
            )
            group.permissions.add(permission)


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0003_operator_groups"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("workflows", "0020_node_rules"),
    ]
    operations = [migrations.RunPython(grant, migrations.RunPython.noop)]
