from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import call_command
from drf_spectacular.generators import EndpointEnumerator, SchemaGenerator
from jsonschema import Draft202012Validator

from comfyserve.api import docs
from comfyserve.api.docs import schema
from tests.factories import Api

FILE = settings.BASE_DIR / "openapi.yaml"


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in schema()["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Name, schema and value of each."""
    for name, operation in operations():
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for where, body in bodies.items():
            for media in body.get("content", {}).values():
                for title, example in media.get("examples", {}).items():
                    yield f"{name} {where} {title}", media["schema"], example["value"]


def test_it_is_made_once_however_many_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may ask, and many generating it at once would stop the server for a while."""
    made: list[None] = []
    go_on, asked = threading.Event(), threading.Barrier(9)
    original = SchemaGenerator.get_schema

    def counted(self: SchemaGenerator, **options: Any) -> Any:
        made.append(None)
        go_on.wait(20)
        return original(self, **options)

    def ask() -> dict[str, Any]:
        asked.wait(20)
        return schema()

    monkeypatch.setattr(SchemaGenerator, "get_schema", counted)
    docs._schema.cache_clear()
    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(ask) for _ in range(8)]
        asked.wait(20)
        go_on.set()
        assert all(each.result() is found[0].result() for each in found)
    assert len(made) == 1


class TestSchema:
    def test_it_is_valid_openapi_3_1(self) -> None:
        from openapi_spec_validator import validate  # takes half a second, in this test only

        assert schema()["openapi"].startswith("3.1")
        validate(schema())

    def test_openapi_yaml_is_fresh(self, tmp_path) -> None:
        made = tmp_path / "openapi.yaml"
        call_command("spectacular", "--file", str(made))
        assert made.read_text() == FILE.read_text(), "run: python manage.py spectacular --file openapi.yaml"

    def test_every_endpoint_is_in_it(self) -> None:
        paths = {path for path, *_ in EndpointEnumerator().get_api_endpoints()}
        pages = {"/", "/schema", "/docs", "/redoc"}
        assert paths - pages == set(schema()["paths"])

    def test_every_operation_says_what_it_does_and_how_it_fails(self) -> None:
        for name, operation in operations():
            responses = set(operation["responses"])
            assert operation["summary"], name
            assert {"400", "405", "406", "413", "415", "429", "500", "503"} <= responses, name
            assert "401" in responses or operation["security"] == [{}], name
            assert "404" in responses or "{" not in name, name

    def test_every_field_is_described(self) -> None:
        for name, shape in schema()["components"]["schemas"].items():
            for field, about in shape.get("properties", {}).items():
                assert about.get("description"), f"{name}.{field} has no help_text"

    def test_every_example_fits(self) -> None:
        """Those of a request and of its responses."""
        fitted = 0
        for name, shape, example in examples():
            validator = Draft202012Validator({**shape, "components": schema()["components"]})
            assert [fault.message for fault in validator.iter_errors(example)] == [], name
            fitted += 1
        assert fitted

    def test_operation_ids_are_unique(self) -> None:
        ids = [operation["operationId"] for _, operation in operations()]
        assert len(ids) == len(set(ids))


class TestServed:
    def test_as_yaml_and_as_json(self, stranger: Api) -> None:
        as_yaml = stranger.get("/schema")
        as_json = stranger.get("/schema", headers={"Accept": "application/vnd.oai.openapi+json"})
        assert yaml.safe_load(as_yaml.content) == json.loads(as_json.content)

    def test_it_is_rendered_once(self, stranger: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        """As YAML it takes long, and anybody may ask for it."""
        first = stranger.get("/schema")
        monkeypatch.setattr("comfyserve.api.docs._schema", lambda: pytest.fail("it was rendered again"))
        second = stranger.get("/schema")
        assert second.content == first.content
        assert second["Content-Type"] == first["Content-Type"] == "application/vnd.oai.openapi; charset=utf-8"
        assert second["Content-Disposition"] == 'inline; filename="openapi.yaml"'

    def test_the_first_call_is_for_the_address_that_was_asked(self, stranger: Api, as_alice: Api) -> None:
        accept = {"Accept": "application/vnd.oai.openapi+json"}
        for asked in (stranger, as_alice):
            description = asked.get("/schema", headers=accept).json()["info"]["description"]
            assert "API=http://testserver\n" in description

    @pytest.mark.parametrize("path", ["/docs", "/redoc"])
    def test_the_pages_answer_options(self, stranger: Api, path: str) -> None:
        assert stranger("options", path).status_code == 405

    @pytest.mark.parametrize("path", ["/docs", "/redoc"])
    def test_the_pages_ask_no_other_host(self, stranger: Api, path: str) -> None:
        response = stranger.get(path)
        assert response.status_code == 200
        assert b"http://" not in response.content
        assert b"https://" not in response.content
        assert "default-src 'self'" in response["Content-Security-Policy"]

    @pytest.mark.parametrize(
        "file",
        [
            "swagger-ui-dist/swagger-ui-bundle.js",
            "swagger-ui-dist/swagger-ui.css",
            "redoc/bundles/redoc.standalone.js",
        ],
    )
    def test_the_assets_of_the_pages_are_served(self, stranger: Api, file: str) -> None:
        with closing(stranger.get(f"/static/drf_spectacular_sidecar/{file}")) as response:
            assert response.status_code == 200
