"""What is not known is refused by name, at every endpoint: nothing is dropped in silence."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from tests.factories import Api, assert_error, mistakes
from tests.workflows import graphs


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
    def test_a_submission_names_what_may_be_meant(self, as_alice: Api, name: str, meant: str) -> None:
        response = as_alice.post("/workflows/execute", {"workflow": graphs.colour(1), name: None})
        assert f"did you mean '{meant}'" in refusals(response)[name]

    def test_it_is_told_beside_the_other_mistakes(self, as_alice: Api) -> None:
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
    def test_every_body_is_looked_at(self, as_alice: Api, path: str, body: dict[str, Any]) -> None:
        assert "otp" in refusals(as_alice.post(path, body))

    @pytest.mark.parametrize(
        "path, meant",
        [
            ("/workflows/?limits=5", "limit"),
            ("/workflows/?state=failed", "status"),
            ("/files/?kinds=upload", "kind"),
            ("/models/?modeltype=lora", "model_type"),
        ],
    )
    def test_a_parameter_names_what_may_be_meant(self, as_alice: Api, path: str, meant: str) -> None:
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

    def test_an_upload_names_a_field_that_may_be_meant(self, as_alice: Api) -> None:
        response = as_alice.post("/files/upload", data={"image": SimpleUploadedFile("a.png", b"x")})
        assert "did you mean 'file'" in refusals(response)["image"]
