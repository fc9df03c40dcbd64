"""POST /models/cleanup: unloads models that were not used for a while."""

from __future__ import annotations

import pytest

from tests.models_registry.conftest import CHECKPOINT


@pytest.fixture
def loaded(person):
    answer = person.post(f"/models/{CHECKPOINT}/load?model_type=checkpoint")
    assert answer.status_code == 200, answer.text


def test_recently_used_inputs_stay(person, model, loaded):
    answer = person.post("/models/cleanup")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"message": "Cleanup completed", "models_unloaded": []}
    assert model(CHECKPOINT)["is_loaded"] is True


def test_unused_models_are_removed(person, model, loaded, gpu_worker):
    gpu_worker.sql("UPDATE models_registry_modelfile SET loaded_at = now() - interval '3 hours'")
    gpu_worker.sql("UPDATE models_registry_model SET last_used = now() - interval '150 minutes'")
    assert person.post("/models/cleanup?max_age_hours=3").json()["models_unloaded"] == []
    answer = person.post("/models/cleanup/?max_age_hours=2")
    assert answer.json()["models_unloaded"] == [CHECKPOINT]
    assert model(CHECKPOINT)["is_loaded"] is False


@pytest.mark.parametrize("hours", ["0", "25", "x", "1.5"])
def test_other_ages_are_refused(person, hours):
    answer = person.post(f"/models/cleanup?max_age_hours={hours}")
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "max_age_hours"
