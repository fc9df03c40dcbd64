"""A model that another host has must be the same file; the operator's tokens are the operators'."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission

from comfyserve.api.errors import Conflict
from models_registry import downloads
from models_registry.models import Download, Host, Model, ModelFile
from tests.factories import make_user

NAME, OURS, OTHER = "dream.safetensors", "a" * 64, "b" * 64
URL = "https://1.1.1.1/x"


@pytest.fixture
def hosts(db: Any) -> None:
    """One that has the model, and one that lacks it."""
    has, _ = Host.objects.create(name="has"), Host.objects.create(name="lacks")
    model = Model.objects.create(type="checkpoint", name=NAME)
    ModelFile.objects.create(
        model=model, host=has, folder="checkpoints", path=f"/m/{NAME}", size=1, changed=0, sha256=OURS
    )


@pytest.fixture
def operator(db: Any) -> Any:
    user = make_user("operator", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="change_model"))
    return user


def start(user: Any, *, sha256: str = "") -> Download:
    downloads.start(user=user, name=NAME, model_type="checkpoint", download_url=URL, sha256=sha256)
    return Download.objects.get(model__name=NAME)


@pytest.mark.parametrize("given", ["", OURS, OURS.upper()])
def test_the_sum_of_the_other_host_is_expected(alice, hosts, given):
    assert start(alice, sha256=given).sha256 == OURS


def test_another_file_is_refused(alice, operator, hosts):
    for user in (alice, operator):
        with pytest.raises(Conflict, match="different file"):
            start(user, sha256=OTHER)


def test_an_operator_decides_about_unknown_checksums(alice, operator, hosts):
    ModelFile.objects.update(sha256="")
    with pytest.raises(Conflict, match="not known yet"):
        start(alice)
    assert start(operator).sha256 == ""


def test_hosts_that_differ_already_want_a_choice(alice, hosts):
    third = Host.objects.create(name="third")
    file = ModelFile.objects.get()
    file.pk, file.host, file.sha256 = None, third, OTHER
    file.save()
    with pytest.raises(Conflict, match="give its SHA-256"):
        start(alice)
    assert start(alice, sha256=OTHER).sha256 == OTHER


def test_tokens_are_used_for_operators_only(alice, operator, settings):
    read_only = make_user("reader", is_staff=True)
    asked = {user.username: Download(user=user) for user in (alice, read_only, operator)}
    allowed = {name for name, each in asked.items() if downloads.may_use_tokens(each)}
    assert allowed == {"operator"}
    assert not downloads.may_use_tokens(Download(user=None))
    settings.MODEL_TOKENS = "authenticated"
    assert all(downloads.may_use_tokens(each) for each in asked.values())
