"""Load, unload and cleanup while the GPU is busy for longer than the API waits: 202, and done later."""

from __future__ import annotations

import pytest

from models_registry.models import Command, Host, Model, ModelFile
from tests.factories import Api


@pytest.fixture
def name(db, settings) -> str:
    settings.MODEL_COMMAND_SECONDS = 0
    host = Host.objects.create(name="gpu", bridge=True)
    model = Model.objects.create(type="checkpoint", name="tiny.safetensors")
    about = {"folder": "checkpoints", "path": "/models/tiny", "size": 5, "changed": 0.0, "loaded_bytes": 5}
    ModelFile.objects.create(model=model, host=host, **about)
    return model.name


@pytest.mark.parametrize(
    "path, look",
    [
        ("/models/tiny.safetensors/load?model_type=checkpoint", "/models/tiny.safetensors"),
        ("/models/tiny.safetensors/unload", "/models/tiny.safetensors"),
        ("/models/cleanup", "/models/"),
    ],
)
def test_a_command_that_is_done_later_is_answered_with_202(
    as_alice: Api, name: str, path: str, look: str
) -> None:
    answer = as_alice.post(path)
    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert "the command runs as soon as" in body["message"]
    assert body["waiting_for"] == ["gpu"]
    assert look in body["note"]
    assert answer["Location"] == look
    assert Command.objects.get().state == Command.State.WAITING
