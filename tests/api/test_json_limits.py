"""JSON that would be expensive to parse is refused before."""

from __future__ import annotations

import json
import time

import pytest
from rest_framework.exceptions import ParseError

from comfyserve.api import json_limits, parsers
from script.harness import graphs
from tests.factories import Api


@pytest.mark.parametrize("piece", [b"[],", b"1,", b'{"a":1},', b'"",'])
def test_too_many_elements_are_refused_before_parsing(piece, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ParseError, match="elements"):
        parsers.loads(b"[" + piece * json_limits.MAX_ELEMENTS + b"1]")


def test_without_an_account_few_elements_are_parsed(stranger: Api, as_alice: Api, monkeypatch):
    body: list[list[int]] = [[]] * 5_000
    answer = as_alice.post("/workflows/execute", body)
    assert "dictionary" in answer.content.decode()
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    answer = stranger.post("/auth/login", body)
    assert answer.status_code == 400
    assert b"more than 1000 elements" in answer.content


def test_depth_is_refused_before_parsing(monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(ParseError, match="levels"):
        parsers.loads(b"[" * 200 + b"]" * 200)


def test_commas_and_brackets_in_texts_do_not_count():
    text = ',:[{\\"' * json_limits.MAX_ELEMENTS
    assert len(parsers.loads(f'["{text}"]'.encode())[0]) == 5 * json_limits.MAX_ELEMENTS


def test_a_text_without_an_end_is_searched_once():
    began = time.process_time()
    with pytest.raises(ParseError):
        parsers.loads(b'["' + b'\\",' * 1_000_000)
    assert time.process_time() - began < 5


def test_a_graph_is_accepted_as_before(stack):
    stack.start_web()
    stack.person().execute(graphs.colour(1))
