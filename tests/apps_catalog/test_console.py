"""Apps in the console: who may see them, and who may delete one."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.apps import apps
from django.contrib.auth.models import Group

from accounts.audit_models import AuditEntry
from apps_catalog.models import App
from script.harness import graphs
from tests.console.conftest import client_of
from tests.factories import Api, make_user

pytestmark = pytest.mark.django_db
APPS, VERSIONS = "/admin/apps_catalog/app/", "/admin/apps_catalog/appversion/"


@pytest.fixture
def member():
    """A client of somebody in the group, as the migrations make it."""
    import_module("accounts.migrations.0003_operator_groups").make(apps, None)
    import_module("apps_catalog.migrations.0002_operators_see_apps").grant(apps, None)

    def of(group: str):
        user = make_user(f"of-{len(group)}", is_staff=True)
        user.groups.add(Group.objects.get(name=group))
        return client_of(user)

    return of


@pytest.fixture
def app():
    answer = Api.of(make_user("owner")).post("/apps/", {"name": "colour", "workflow": graphs.colour(1)})
    assert answer.status_code == 201, answer.content
    return App.objects.get()


@pytest.mark.parametrize("group", ["Operators (read only)", "Operators"])
def test_both_groups_see_apps_and_their_versions(member, app, group):
    client = member(group)
    assert "owner/colour" in client.get(APPS).content.decode()
    assert client.get(f"{APPS}{app.pk}/change/").status_code == 200
    assert client.get(VERSIONS).status_code == 200
    assert client.get(f"{VERSIONS}{app.versions.get().pk}/change/").status_code == 200


def test_operators_delete_an_app_which_is_noted(member, app):
    form = {"action": "remove", "_selected_action": [str(app.pk)]}
    client = member("Operators")
    assert "Yes, delete" in client.post(APPS, form).content.decode()
    assert client.post(APPS, {**form, "confirmed": "1"}, follow=True).status_code == 200
    assert not App.objects.exists()
    entry = AuditEntry.objects.get(action="app.remove")
    assert (entry.via, entry.object_name) == ("admin", "owner/colour")


def test_readers_do_not(member, app):
    form = {"action": "remove", "_selected_action": [str(app.pk)], "confirmed": "1"}
    assert member("Operators (read only)").post(APPS, form).status_code == 403
    assert App.objects.exists()
