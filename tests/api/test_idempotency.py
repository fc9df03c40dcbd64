from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection
from django.urls import path
from django.utils import timezone
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import cleaning, idempotency
from accounts.idempotent_views import idempotent
from accounts.models import ApiKey, IdempotencyRecord
from comfyserve import urls
from comfyserve.api.errors import Conflict
from tests.factories import Api, assert_error, make_user

entered, go_on, superseding = threading.Event(), threading.Event(), threading.Event()


def prepare() -> None:
    entered.set()
    if not superseding.is_set():
        go_on.wait(10)


class Make(APIView):
    """Makes a row; stands for the endpoints that use the decorator."""

    @idempotent
    def post(self, request) -> Response:
        name = request.data["name"]
        if name == "slow to prepare":
            prepare()
        idempotency.begin_commit()
        made = ApiKey.objects.create(user=request.user, name=name, digest=str(ApiKey.objects.count()))
        if name == "refused":
            raise Conflict("no")
        if name == "slow":
            prepare()
        return Response({"z": made.id, "a": timezone.now()}, headers={"X-Mine": "yes"})


urlpatterns = [path("make", Make.as_view()), path("make/other", Make.as_view()), *urls.urlpatterns]
pytestmark = pytest.mark.urls(__name__)
handler404, handler500 = urls.handler404, urls.handler500


def make(api: Api, name: str = "x", key: str | None = "k1", where: str = "/make"):
    return api.post(where, {"name": name}, headers={"Idempotency-Key": key} if key is not None else {})


class TestIdempotency:
    def test_without_a_key_each_request_counts(self, as_alice: Api) -> None:
        assert make(as_alice, key=None).content != make(as_alice, key=None).content

    def test_the_same_key_and_body_give_the_first_answer_again(self, as_alice: Api) -> None:
        first, again = make(as_alice), make(as_alice)
        assert again.content == first.content
        assert ApiKey.objects.count() == 1
        assert "Idempotency-Replayed" not in first
        assert again["Idempotency-Replayed"] == "true"
        assert first["X-Mine"] == "yes"

    def test_the_layout_of_the_json_does_not_matter(self, as_alice: Api) -> None:
        first = make(as_alice)
        again = as_alice.post(
            "/make",
            data=b' { "name" :\n"x" } ',
            content_type="application/json",
            headers={"Idempotency-Key": "k1"},
        )
        assert again.content == first.content

    @pytest.mark.parametrize("name, where", [("y", "/make"), ("x", "/make/other"), ("x", "/make?a=b")])
    def test_the_same_key_for_another_request_is_422(self, as_alice: Api, name: str, where: str) -> None:
        make(as_alice)
        assert_error(make(as_alice, name=name, where=where), 422, "unprocessable_entity")
        assert ApiKey.objects.count() == 1

    def test_a_slash_at_the_end_makes_no_other_request(self, as_alice: Api) -> None:
        assert make(as_alice).content == make(as_alice, where="/make/").content

    def test_another_key_is_another_request(self, as_alice: Api) -> None:
        assert make(as_alice).content != make(as_alice, key="k2").content

    def test_another_user_may_use_the_same_key(self, as_alice: Api, as_bob: Api) -> None:
        assert make(as_alice).content != make(as_bob).content

    def test_a_request_that_failed_may_be_tried_again(self, as_alice: Api) -> None:
        assert_error(make(as_alice, name="refused"), 409, "conflict")
        assert not ApiKey.objects.exists()
        assert make(as_alice, name="x").status_code == 200

    def test_after_a_day_the_key_is_free(self, as_alice: Api) -> None:
        first = make(as_alice)
        IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(days=1, seconds=1))
        assert make(as_alice).content != first.content
        assert IdempotencyRecord.objects.count() == 1

    def test_old_ones_are_swept(self, as_alice: Api) -> None:
        make(as_alice)
        list(cleaning.clean())
        assert IdempotencyRecord.objects.count() == 1
        IdempotencyRecord.objects.update(created_at=timezone.now() - timedelta(days=1, seconds=1))
        list(cleaning.clean())
        assert not IdempotencyRecord.objects.exists()

    @pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 256])
    def test_an_invalid_key_is_400(self, as_alice: Api, key: str) -> None:
        body = assert_error(make(as_alice, key=key), 400, "validation_error")
        assert body["details"][0]["field"] == "Idempotency-Key"


@pytest.mark.django_db(transaction=True)
class TestAtTheSameMoment:
    def test_ten_make_one(self, monkeypatch) -> None:
        monkeypatch.setattr(idempotency, "WAIT_SECONDS", 30.0)  # for the first, on a busy machine
        api = Api.of(make_user("alice"))

        def go(_: int) -> bytes:
            try:
                return make(api).content
            finally:
                connection.close()

        with ThreadPoolExecutor(10) as pool:
            assert len(set(pool.map(go, range(10)))) == 1
        assert ApiKey.objects.count() == 1

    def test_a_duplicate_request_is_rejected_while_the_first_is_in_progress(self) -> None:
        api = Api.of(make_user("alice"))
        for event in (entered, go_on, superseding):
            event.clear()

        def slow() -> int:
            try:
                return make(api, name="slow").status_code
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(slow)
            assert entered.wait(10)
            second = make(api, name="slow")
            go_on.set()
            assert first.result() == 200
        assert_error(second, 409, "conflict")
        assert second["Retry-After"] == "1"
        assert ApiKey.objects.count() == 1

    def test_an_abandoned_claim_expires_and_a_late_request_creates_nothing(self) -> None:
        api = Api.of(make_user("alice"))
        for event in (entered, go_on, superseding):
            event.clear()

        def slow():
            try:
                return make(api, name="slow to prepare")
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(slow)
            assert entered.wait(10)
            assert_error(make(api, name="slow to prepare"), 409, "conflict")
            IdempotencyRecord.objects.update(
                created_at=timezone.now() - timedelta(seconds=idempotency.CLAIM_SECONDS + 1)
            )
            superseding.set()
            second = make(api, name="slow to prepare")
            go_on.set()
            late = first.result()
            assert second.status_code == 200
        assert_error(late, 409, "conflict")
        assert ApiKey.objects.count() == 1
        assert make(api, name="slow to prepare").content == second.content
