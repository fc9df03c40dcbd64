from __future__ import annotations

import json
from typing import Any

import pytest

from tests.factories import Api, assert_error

DOCUMENTS = {
    "NUL": b'{"email": "a\\u0000b"}',
    "NUL in a key": b'{"a\\u0000": 1}',
    "lone surrogate": b'{"email": "\\ud800"}',
    "lone surrogate in a key": b'{"\\udfff": 1}',
    "deep lists": b"[" * 10_000 + b"]" * 10_000,
    "deep objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "unclosed deep lists": b"[" * 50_000,
    "infinite": b'{"a": 1e400}',
    "minus infinite": b'{"a": -1e999}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": [Infinity, -Infinity]}',
    "65 bits": b'{"a": 18446744073709551616}',
    "5,000 digits": b'{"a": ' + b"9" * 5_000 + b"}",
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a mark of byte order": b'\xef\xbb\xbf{"a": 1}',
    "nothing but a blank": b" ",
    "cut off": b'{"a": "b',
    "two documents": b"{} {}",
    "a raw control character": b'{"a": "\x01"}',
    "a raw NUL": b"\x00",
    "single quotes": b"{'a': 1}",
    "a list": b"[]",
    "a text": b'"x"',
    "a number": b"1",
    "null": b"null",
    "true": b"true",
}
ENDPOINTS = [
    "/auth/register",
    "/auth/login",
    "/auth/refresh",
    "/auth/password",
    "/auth/password/reset",
    "/auth/password/reset/confirm",
    "/auth/keys",
]
FIELDS = [
    "email",
    "password",
    "username",
    "refresh_token",
    "token",
    "new_password",
    "current_password",
    "name",
]
VALUES: list[Any] = [
    None,
    True,
    7,
    1.5,
    -(2**63),
    [],
    {},
    [[]],
    {"a": 1},
    "",
    " ",
    "x" * 100_000,
    "\u202e",
    "😀",
    "%00",
]


class TestHostileJson:
    @pytest.mark.parametrize("name", DOCUMENTS)
    def test_a_hostile_document_is_400(self, as_alice: Api, name: str) -> None:
        for path in ENDPOINTS:
            response = as_alice.post(path, data=DOCUMENTS[name], content_type="application/json")
            assert_error(response, 400, "validation_error")
            json.loads(response.content.decode("utf-8"))

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
    def test_an_odd_value_in_any_field_does_not_crash(self, as_alice: Api, value: object) -> None:
        for path in ENDPOINTS:
            response = as_alice.post(path, dict.fromkeys(FIELDS, value))
            assert response.status_code in (201, 400, 401, 404, 413), (path, response.content[:300])

    def test_the_largest_seed_of_comfyui_passes_the_parser(self, as_alice: Api) -> None:
        body = as_alice.post("/auth/login", {"seed": 2**64 - 1}).json()
        assert [detail["field"] for detail in body["details"]] == ["email", "password", "seed"]

    @pytest.mark.parametrize(
        "number", ["NaN", "-Infinity", "18446744073709551616", "-9223372036854775809", "1e400"]
    )
    def test_nan_and_infinity_are_rejected_by_their_path(self, as_alice: Api, number: str) -> None:
        text = f'{{"workflow": {{"3": {{"inputs": {{"seed": {number}, "list": [1, {number}]}}}}}}}}'
        response = as_alice.post("/workflows/execute", data=text, content_type="application/json")
        body = assert_error(response, 400, "validation_error")
        assert [detail["field"] for detail in body["details"]] == [
            "workflow.3.inputs.seed",
            "workflow.3.inputs.list.1",
        ]

    @pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "\\udc00\\ud83d"])
    def test_a_text_that_cannot_be_stored_is_named_by_its_path(self, as_alice: Api, text: str) -> None:
        body = f'{{"workflow": {{"3": {{"inputs": {{"text": "{text}", "{text}": ["x", "{text}"]}}}}}}}}'
        response = as_alice.post("/workflows/execute", data=body, content_type="application/json")
        details = assert_error(response, 400, "validation_error")["details"]
        assert {detail["code"] for detail in details} == {"INVALID_STRING"}
        fields = [detail["field"] for detail in details]
        assert "workflow.3.inputs.text" in fields
        assert any(field.endswith(".1") for field in fields)
        assert len(fields) == 3

    @pytest.mark.parametrize("query", ["a=%00", "%00=a", "a=b%00c&d=e", "q=\x00"])
    def test_a_nul_in_the_query_is_400(self, as_alice: Api, query: str) -> None:
        body = assert_error(as_alice.get(f"/auth/me?{query}"), 400, "validation_error")
        assert "NUL" in body["details"][0]["message"]

    @pytest.mark.parametrize("query", ["a=%ff", "%", "&&&", "=", "a=%ud800", "a=%ed%a0%80", "a" * 5000])
    def test_other_nonsense_in_the_query_is_ignored_where_nothing_is_asked(
        self, as_alice: Api, query: str
    ) -> None:
        assert as_alice.get(f"/health/?{query}").status_code == 200

    @pytest.mark.parametrize(
        "query", ["status=", "limit=", "offset=", "status=x", "limit=0", "limit=1e400", "offset=-1"]
    )
    def test_an_invalid_parameter_is_named(self, as_alice: Api, query: str) -> None:
        body = assert_error(as_alice.get(f"/workflows/?{query}"), 400, "validation_error")
        assert [detail["field"] for detail in body["details"]] == [query.partition("=")[0]]
