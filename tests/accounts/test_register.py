from __future__ import annotations

import pytest
from django.contrib.auth.hashers import identify_hasher

from accounts.models import User
from comfyserve import settings as outside_of_tests
from tests.factories import PASSWORD, Api, assert_error, mistakes

NEW = {"email": "dora@example.com", "password": PASSWORD, "username": "dora"}


class TestRegister:
    def test_it_answers_as_the_reference_says(self, stranger: Api) -> None:
        response = stranger.post("/auth/register", NEW)
        assert response.status_code == 201
        body = response.json()
        assert list(body) == ["id", "email", "username", "is_active", "created_at", "updated_at"]
        assert (body["email"], body["username"], body["is_active"]) == ("dora@example.com", "dora", True)
        assert body["created_at"].endswith("Z")
        assert body["updated_at"] is None

    def test_it_hashes_with_argon2(self, stranger: Api) -> None:
        stranger.post("/auth/register", NEW)
        assert identify_hasher(User.objects.get(username="dora").password).algorithm == "argon2"

    def test_only_in_tests_is_the_hash_a_cheap_one(self) -> None:
        assert outside_of_tests.PASSWORD_HASHERS[0] == "accounts.hashers.Argon2PasswordHasher"

    def test_it_refuses_an_address_that_differs_only_in_case(self, stranger: Api) -> None:
        stranger.post("/auth/register", NEW)
        response = stranger.post("/auth/register", {**NEW, "email": "DORA@Example.com", "username": "dora2"})
        assert_error(response, 400, "validation_error")
        assert User.objects.filter(username="dora2").count() == 0

    def test_it_refuses_a_username_that_differs_only_in_case(self, stranger: Api) -> None:
        stranger.post("/auth/register", NEW)
        response = stranger.post("/auth/register", {**NEW, "email": "other@example.com", "username": "DoRa"})
        assert_error(response, 400, "validation_error")
        assert not User.objects.filter(email="other@example.com").exists()

    @pytest.mark.parametrize(
        "name", ["dor\u0130", "dor\u0131", "DORI", "dor\uff49", "dor\u2170", "Dor\u0130"]
    )
    def test_it_refuses_a_username_in_another_spelling(self, stranger: Api, name: str) -> None:
        stranger.post("/auth/register", {**NEW, "username": "dori"})
        response = stranger.post("/auth/register", {**NEW, "email": "other@example.com", "username": name})
        assert_error(response, 400, "validation_error")
        assert User.objects.count() == 1

    @pytest.mark.parametrize("email", ["DOR\u0130@example.com", "dor\u0130@EXAMPLE.com", "DORI@example.com"])
    def test_it_refuses_an_address_in_another_spelling(self, stranger: Api, email: str) -> None:
        stranger.post("/auth/register", {**NEW, "email": "dori@example.com"})
        assert_error(
            stranger.post("/auth/register", {**NEW, "email": email, "username": "dora2"}), 400,
            "validation_error",
        )  # fmt: skip
        assert User.objects.count() == 1

    @pytest.mark.parametrize("name", [".", "..", "...", "+", "@"])
    def test_a_username_has_a_letter_or_a_digit(self, stranger: Api, name: str) -> None:
        """It is a part of the addresses of apps, where `..` would lead elsewhere."""
        body = assert_error(
            stranger.post("/auth/register", {**NEW, "username": name}), 400, "validation_error"
        )
        assert set(mistakes(body)) == {"username"}

    def test_it_does_not_say_which_of_address_and_name_is_taken(self, stranger: Api) -> None:
        stranger.post("/auth/register", NEW)
        same_address = stranger.post("/auth/register", {**NEW, "username": "other"}).json()
        same_name = stranger.post("/auth/register", {**NEW, "email": "other@example.com"}).json()
        assert same_address["details"] == same_name["details"]

    def test_it_reports_all_errors_at_once(self, stranger: Api) -> None:
        body = assert_error(
            stranger.post("/auth/register", {"email": "no", "password": "12345", "username": "a b"}),
            400,
            "validation_error",
        )
        assert set(mistakes(body)) == {"email", "password", "username"}

    @pytest.mark.parametrize(
        "password, rule",
        [
            ("x7w3q", "too short"),
            ("password123", "too common"),
            ("83927461045", "entirely numeric"),
            ("dora@example.co", "too similar"),
        ],
    )
    def test_it_says_which_rule_the_password_breaks(self, stranger: Api, password: str, rule: str) -> None:
        body = stranger.post("/auth/register", {**NEW, "password": password}).json()
        assert [detail["field"] for detail in body["details"]] == ["password"]
        assert rule in body["details"][0]["message"]

    def test_it_names_what_is_missing(self, stranger: Api) -> None:
        body = assert_error(stranger.post("/auth/register", {}), 400, "validation_error")
        assert mistakes(body) == dict.fromkeys(("email", "password", "username"), "REQUIRED_FIELD")
        assert body["details"][0]["message"] == "Field 'email' is required"

    def test_it_can_be_closed(self, stranger: Api, settings) -> None:
        settings.REGISTRATION = "closed"
        assert_error(stranger.post("/auth/register", NEW), 403, "forbidden")
        assert not User.objects.exists()

    def test_it_takes_only_so_many_from_one_address(self, stranger: Api, settings) -> None:
        settings.REGISTRATIONS_PER_HOUR = 2
        for name in ("a", "b"):
            stranger.post("/auth/register", {**NEW, "email": f"{name}@example.com", "username": name})
        response = stranger.post("/auth/register", NEW)
        assert_error(response, 429, "rate_limit_exceeded")
        assert 0 < int(response["Retry-After"]) <= 3600
