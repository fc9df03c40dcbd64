from __future__ import annotations

from django.db import migrations

READERS, OPERATORS = "Operators (read only)", "Operators"
# What the console shows. To operate on something is its change permission, see console.admin.ReadOnlyAdmin.
VIEW = {
    "accounts": ["user", "userlimits", "apikey", "session", "auditentry"],
    "files": ["file"],
    "models_registry": ["host", "model", "modelfile", "command", "download"],
    "workflows": ["execution", "logline", "output", "worker", "delivery", "deliveryattempt"],
}
CHANGE = {
    "accounts": ["user", "userlimits"],
    "models_registry": ["model"],
    "workflows": ["execution", "worker", "delivery"],
}
ADD = {"accounts": ["user", "userlimits"]}
DELETE = {"accounts": ["apikey", "userlimits"], "files": ["file"], "workflows": ["execution"]}


def make(apps, _):
    """Both groups. Permissions are made by Django only after all migrations, so these are made here."""
    group = apps.get_model("auth", "Group").objects
    readers, _ = group.get_or_create(name=READERS)
    operators, _ = group.get_or_create(name=OPERATORS)
    views = _permissions(apps, "view", VIEW)
    readers.permissions.add(*views)
    operators.permissions.add(*views)
    for action, models in (("change", CHANGE), ("add", ADD), ("delete", DELETE)):
        operators.permissions.add(*_permissions(apps, action, models))


def _permissions(apps, action, models):
    found = []
    for app, names in models.items():
        for name in names:
            kind, _ = apps.get_model("contenttypes", "ContentType").objects.get_or_create(
                app_label=app, model=name
            )
            said = f"Can {action} {apps.get_model(app, name)._meta.verbose_name}"
            permission, _ = apps.get_model("auth", "Permission").objects.get_or_create(
                content_type=kind, codename=f"{action}_{name}", defaults={"name": said}
            )
            found.append(permission)
    return found


def unmake(apps, _):
    apps.get_model("auth", "Group").objects.filter(name__in=[READERS, OPERATORS]).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_audit_log"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("files", "0002_shared_bytes_thumbnails_and_pins"),
        ("models_registry", "0001_initial"),
        ("workflows", "0006_returns"),
    ]

    operations = [migrations.RunPython(make, unmake)]
