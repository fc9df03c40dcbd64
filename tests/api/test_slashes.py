from __future__ import annotations

import pytest

from tests.factories import Api


class TestEitherSlash:
    @pytest.mark.parametrize("path", ["/auth/me", "/auth/me/"])
    def test_get(self, as_alice: Api, path: str) -> None:
        assert as_alice.get(path).status_code == 200

    @pytest.mark.parametrize("path", ["/auth/logout", "/auth/logout/"])
    def test_post(self, as_alice: Api, path: str) -> None:
        assert as_alice.post(path, {}).status_code == 200

    @pytest.mark.parametrize("path", ["/auth//me", "//auth/me", "/auth/me//"])
    def test_two_slashes_are_another_path(self, as_alice: Api, path: str) -> None:
        assert as_alice.get(path).status_code == 404


class TestBrowsers:
    def test_security_headers(self, as_alice: Api) -> None:
        response = as_alice.get("/auth/me")
        assert response["X-Content-Type-Options"] == "nosniff"
        assert response["X-Frame-Options"] == "DENY"
        assert response["Referrer-Policy"] == "same-origin"
        assert response["Content-Security-Policy"].startswith("default-src 'none'")
        assert response["Cache-Control"] == "no-store"

    def test_no_origin_is_allowed_unless_set(self, as_alice: Api) -> None:
        response = as_alice.get("/auth/me", headers={"Origin": "https://evil.example.com"})
        assert "Access-Control-Allow-Origin" not in response
