"""Unknown fields and parameters are rejected by name at every endpoint; nothing is silently ignored."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from script.harness import graphs
from tests.factories import Api, assert_error, mistakes


def refusals(response: Any) -> dict[str, str]:
    body = assert_error(response, 400, "validation_error")
    return {each["field"]: each["message"] for each in body["details"] if each["code"] == "UNKNOWN_FIELD"}


class TestUnknownFields:
    @pytest.mark.parametrize(
        "name, meant",
        [
            ("webhookUrl", "webhook_url"),
            ("WebhookURL", "webhook_url"),
            ("timeout", "timeout_minutes"),
            ("callback_url", "webhook_url"),
            ("prioritty", "priority"),
            ("meta_data", "metadata"),
        ],
    )
    def test_an_unknown_submission_field_suggests_similar_names(
        self, as_alice: Api, name: str, meant: str
    ) -> None:
        response = as_alice.post("/workflows/execute", {"workflow": graphs.colour(1), name: None})
        assert f"did you mean '{meant}'" in refusals(response)[name]

    def test_it_is_reported_with_the_other_errors(self, as_alice: Api) -> None:
        response = as_alice.post("/workflows/execute", {"priority": "urgent", "front": True})
        found = mistakes(assert_error(response, 400, "validation_error"))
        assert found == {"workflow": "REQUIRED_FIELD", "priority": "INVALID_VALUE", "front": "UNKNOWN_FIELD"}

    @pytest.mark.parametrize(
        "path, body",
        [
            ("/auth/login", {"email": "a@example.com", "password": "x", "otp": "1"}),
            ("/auth/register", {"otp": "1"}),
            ("/auth/refresh", {"refresh_token": "x", "otp": "1"}),
            ("/auth/logout", {"otp": "1"}),
            ("/auth/password", {"otp": "1"}),
            ("/auth/keys", {"name": "x", "otp": "1"}),
        ],
    )
    def test_every_body_is_checked(self, as_alice: Api, path: str, body: dict[str, Any]) -> None:
        assert "otp" in refusals(as_alice.post(path, body))

    def test_an_app_names_what_is_not_known_in_its_parts(self, as_alice: Api) -> None:
        app = {
            "name": "colour", "workflow": graphs.colour(1), "titel": "A colour",
            "inputs": [
                {"name": "a", "node": "1", "input": "color"},
                {"name": "b", "node": "1", "input": "width", "min": 1, "defualt": 5},
            ],
            "outputs": [{"name": "c", "node": "2", "label": "x"}],
        }  # fmt: skip
        assert as_alice.post("/apps/", {"name": "colour", "workflow": graphs.colour(1)}).status_code == 201
        changes = {name: value for name, value in app.items() if name != "name"}
        for response in (as_alice.post("/apps/", app), as_alice("patch", "/apps/colour", changes)):
            found = refusals(response)
            assert set(found) == {"titel", "inputs.1.min", "inputs.1.defualt", "outputs.0.label"}
            assert "did you mean 'title'" in found["titel"]
            assert "did you mean 'minimum'" in found["inputs.1.min"]
            assert "did you mean 'default'" in found["inputs.1.defualt"]

    @pytest.mark.parametrize("path", ["/apps/colour/run", "/apps/colour/batch"])
    def test_runs_of_apps_take_no_others_either(self, as_alice: Api, path: str) -> None:
        app = {
            "name": "colour", "workflow": graphs.colour(1),
            "inputs": [{"name": "colour", "node": "1", "input": "color"}],
        }  # fmt: skip
        assert as_alice.post("/apps/", app).status_code == 201
        assert "did you mean 'webhook_url'" in refusals(as_alice.post(path, {"webhook": "x"}))["webhook"]
        given = {"color": 1} if path.endswith("run") else [{"color": 1}]
        body = assert_error(as_alice.post(path, {"inputs": given}), 400, "validation_error")
        assert "did you mean 'colour'" in body["details"][0]["message"]

    @pytest.mark.parametrize("path", ["/apps/?limits=5", "/apps/colour?full=1", "/apps/colour/schema?full=1"])
    def test_nor_do_lists_and_schemas_of_apps(self, as_alice: Api, path: str) -> None:
        assert refusals(as_alice.get(path))

    @pytest.mark.parametrize(
        "path, meant",
        [
            ("/workflows/?limits=5", "limit"),
            ("/workflows/?state=failed", "status"),
            ("/files/?kinds=upload", "kind"),
            ("/models/?modeltype=lora", "model_type"),
        ],
    )
    def test_an_unknown_parameter_suggests_similar_names(self, as_alice: Api, path: str, meant: str) -> None:
        [message] = refusals(as_alice.get(path)).values()
        assert f"did you mean '{meant}'" in message

    @pytest.mark.parametrize("path", ["/auth/me?verbose=1", "/auth/keys?limit=1"])
    def test_an_endpoint_without_parameters_takes_none(self, as_alice: Api, path: str) -> None:
        assert refusals(as_alice.get(path))

    def test_an_endpoint_without_a_body_takes_none(self, as_alice: Api) -> None:
        path = "/workflows/550e8400-e29b-41d4-a716-446655440000/retry"
        assert "priority" in refusals(as_alice.post(path, {"priority": "high"}))
        assert as_alice.post(path, {}).status_code == 404

    @pytest.mark.parametrize("path", ["/health/?t=1", "/health/liveness?probe=lb"])
    def test_probes_may_add_what_they_like(self, stranger: Api, path: str) -> None:
        assert stranger.get(path).status_code == 200

    def test_an_unknown_upload_field_suggests_similar_names(self, as_alice: Api) -> None:
        response = as_alice.post("/files/upload", data={"image": SimpleUploadedFile("a.png", b"x")})
        assert "did you mean 'file'" in refusals(response)["image"]
