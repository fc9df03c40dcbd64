from __future__ import annotations

import logging
from typing import Any

import pytest
from celery import shared_task

from comfyserve import logs
from comfyserve.api import request_ids
from comfyserve.celery import app
from tests.factories import Api


@pytest.fixture(autouse=True)
def _none_in_hand():
    request_ids.end()
    yield
    request_ids.end()


class TestRequestIds:
    @pytest.mark.parametrize("path", ["/auth/me", "/nowhere", "/docs", "/admin/login/", "/auth/login"])
    def test_every_response_has_one(self, stranger: Api, path: str) -> None:
        assert stranger.get(path)["X-Request-ID"].startswith("req_")

    def test_the_callers_is_kept__yes(self, stranger: Api) -> None:
        response = stranger.get("/nowhere", headers={"X-Request-ID": "order-7:a.b_c"})
        assert response["X-Request-ID"] == response.json()["request_id"] == "order-7:a.b_c"

    @pytest.mark.parametrize("offered", ["", "a b", "a\nb", "é", "x" * 129, '"><script>'])
    def test_the_callers_is_kept__no(self, stranger: Api, offered: str) -> None:
        response = stranger.get("/nowhere", headers={"X-Request-ID": offered})
        assert response["X-Request-ID"].startswith("req_")

    def test_log_lines_carry_it(self) -> None:
        request_ids.begin("abc")
        record = logging.makeLogRecord({})
        logs.Context().filter(record)
        assert record.__dict__["request_id"] == "abc"


class TestCelery:
    def test_it_goes_with_the_message(self) -> None:
        sent: list[dict[str, Any]] = []
        request_ids.begin("abc")
        with app.connection_for_write() as connection:
            app.send_task("tests.nothing", connection=connection, queue="tests-of-ids")
            queue = connection.SimpleQueue("tests-of-ids")
            message = queue.get(timeout=5)
            message.ack()
            sent.append(message.headers)
            queue.close()
        assert sent[0][request_ids.HEADER] == "abc"

    def test_the_task_takes_it_up(self) -> None:
        @shared_task(name="tests.which_request")
        def which_request() -> str | None:
            return request_ids.current()

        task = app.tasks["tests.which_request"]
        result = task.apply(headers={request_ids.HEADER: "abc"})
        assert result.get() == "abc"
