from __future__ import annotations

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import psutil
import pytest
from django.core.exceptions import SuspiciousOperation
from django.db import DataError, OperationalError, connections
from rest_framework.exceptions import ErrorDetail

from accounts import registration, sessions
from accounts.models import User
from comfyserve.api import errors
from tests.factories import Api, assert_error


def raising(monkeypatch, exc: Exception) -> None:
    def fail(**_: object) -> None:
        raise exc

    monkeypatch.setattr(sessions, "rotate", fail)


def database_unavailable():
    """The database is lost at the first query."""
    lost = OperationalError("the connection is lost")
    # Django's cursors, and prepared statements.
    broken = dict.fromkeys(("cursor", "ensure_connection"), mock.Mock(side_effect=lost))
    return mock.patch.multiple(connections["default"], **broken)


def refresh(api: Api):
    return api.post("/auth/refresh", {"refresh_token": "x"})


class TestTheOneShape:
    @pytest.mark.parametrize("path", ["/nowhere", "/auth", "/auth/nowhere/", "/%00", "/%ff%fe", "/a" * 99])
    def test_unknown_routes(self, stranger: Api, path: str) -> None:
        assert_error(stranger.get(path), 404, "not_found")

    def test_a_wrong_method(self, stranger: Api) -> None:
        response = stranger.get("/auth/login")
        assert_error(response, 405, "method_not_allowed")
        assert response["Allow"] == "POST, OPTIONS"

    def test_an_unknown_method(self, stranger: Api) -> None:
        response = stranger.client.generic("BREW", "/auth/login")
        assert_error(response, 405, "method_not_allowed")

    def test_an_answer_that_cannot_be_made(self, as_alice: Api) -> None:
        assert_error(as_alice.get("/auth/me", headers={"Accept": "image/png"}), 406, "not_acceptable")

    def test_a_body_of_another_type(self, stranger: Api) -> None:
        response = stranger.post("/auth/login", data=b"a=b", content_type="application/x-www-form-urlencoded")
        assert_error(response, 415, "unsupported_media_type")

    def test_a_crash_reveals_only_its_request_id(self, stranger: Api, monkeypatch, caplog) -> None:
        raising(monkeypatch, RuntimeError("the secret of the house"))
        response = refresh(stranger)
        assert_error(response, 500, "internal_error")
        assert b"secret of the house" not in response.content
        assert "the secret of the house" in caplog.text

    def test_a_crash_is_found_in_the_log_by_its_id(self, stranger: Api, monkeypatch) -> None:
        console = next(handler for handler in logging.getLogger().handlers if handler.name == "console")
        written = io.StringIO()
        monkeypatch.setattr(console, "stream", written)
        raising(monkeypatch, RuntimeError("boom"))
        request_id = refresh(stranger).json()["request_id"]
        assert request_id in written.getvalue()

    @pytest.mark.parametrize(
        "exc, status, error",
        [
            (OperationalError("gone"), 503, "service_unavailable"),
            (DataError("value too long"), 400, "validation_error"),
            (SuspiciousOperation("hm"), 400, "validation_error"),
            (errors.Conflict("no"), 409, "conflict"),
            (errors.Unprocessable("no"), 422, "unprocessable_entity"),
            (errors.LimitExceeded("no"), 429, "rate_limit_exceeded"),
        ],
    )
    def test_exceptions_raised_by_views(
        self, stranger: Api, monkeypatch, exc: Exception, status: int, error: str
    ) -> None:
        raising(monkeypatch, exc)
        assert_error(refresh(stranger), status, error)

    def test_head_and_options(self, as_alice: Api) -> None:
        head = as_alice("head", "/auth/me")
        assert (head.status_code, head.content) == (200, b"")
        options = as_alice("options", "/auth/me")
        assert options.status_code == 200
        assert options["Allow"] == "GET, HEAD, OPTIONS"


class TestDatabaseAway:
    """The connection fails at its first use, wherever that is."""

    def test_in_a_view(self, stranger: Api) -> None:
        with database_unavailable():
            response = stranger.post("/auth/login", {"email": "a@example.com", "password": "x"})
        assert_error(response, 503, "service_unavailable")
        assert int(response["Retry-After"]) > 0

    @pytest.mark.parametrize("limits", ["off", "60/m"])
    def test_in_authentication(self, as_alice: Api, settings, limits: str) -> None:
        settings.RATE_LIMITS = limits  # with limits on it is the middleware that asks first
        with database_unavailable():
            response = as_alice.get("/auth/me")
        assert_error(response, 503, "service_unavailable")
        assert int(response["Retry-After"]) > 0

    def test_in_the_admin(self, stranger: Api) -> None:
        stranger.client.cookies["sessionid"] = "x" * 32
        with database_unavailable():
            response = stranger.client.get("/admin/")
        assert_error(response, 503, "service_unavailable")


class TestFlatten:
    def test_paths_point_to_the_exact_element(self) -> None:
        detail = {"nodes": {"3": {"inputs": [{}, {}, {"value": [ErrorDetail("too large", "max_value")]}]}}}
        codes = {"nodes": {"3": {"inputs": [{}, {}, {"value": ["max_value"]}]}}}
        (found,) = errors.flatten(detail, codes)
        assert found.field == "nodes.3.inputs.2.value"
        assert found.code == "INVALID_VALUE"


class TestLogs:
    def test_expected_errors_leave_no_traceback(self, stranger: Api, caplog) -> None:
        stranger.get("/nowhere")
        assert all(record.exc_info is None for record in caplog.records if record.levelno >= logging.ERROR)

    def test_registering_twice_at_once_is_no_crash(self, alice: User, monkeypatch) -> None:
        with pytest.raises(errors.ValidationFailed):
            registration.register(email="ALICE@example.com", username="x", password="y", address="10.0.0.1")


def test_when_the_database_has_dropped_all_connections_one_request_at_most_fails(stack):
    person = stack.person()
    with ThreadPoolExecutor(8) as many:
        list(many.map(lambda _: person.get("/workflows/"), range(40)))
    ports = {each.laddr.port for each in psutil.Process(stack.web.pid).net_connections("tcp")}
    dropped = stack.sql(
        "SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE client_port = ANY(%s)",
        list(ports),
    )
    assert len(dropped) > 2
    answers = [person.get("/workflows/").status_code for _ in range(20)]
    assert answers.count(503) <= 1
    assert answers.count(200) >= 19
