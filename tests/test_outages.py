"""One definition of what is unavailable, one backoff, one circuit breaker."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
import redis

from comfyserve import outages

ROOT = Path(__file__).parent.parent
PACKAGES = ("accounts", "apps_catalog", "comfyserve", "doors", "files", "models_registry", "workflows")
NAMES = {"RedisError", "KombuError", "BotoCoreError", "ClientError", "Boto3Error"}
HOMES = {"comfyserve/outages.py", "files/backend.py", "files/s3.py"}


def test_a_backoff_doubles_up_to_its_limit_and_resets():
    backoff = outages.Backoff(0.5, 3.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


def test_a_breaker_does_not_try_for_a_while_after_a_failure(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    breaker = outages.Breaker("Redis", outages.REDIS, seconds=3.0)
    tried = []

    def fail() -> None:
        tried.append(now)
        raise redis.ConnectionError("away")

    assert not breaker.attempt(fail, "word not sent")
    assert not breaker.attempt(fail, "word not sent")
    assert tried == [100.0]
    now = 103.5
    assert breaker.attempt(lambda: None, "word not sent")


def test_a_breaker_hides_no_bug():
    breaker = outages.Breaker("Redis", outages.REDIS)
    with pytest.raises(ZeroDivisionError):
        breaker.attempt(lambda: 1 / 0, "sum not made")
    assert not breaker.open


def test_no_other_module_says_what_an_outage_is():
    """`except` names the definition; the libraries' own errors are named in one module for each part."""
    found = [
        f"{path}:{node.lineno}"
        for package in PACKAGES
        for path in (each.relative_to(ROOT) for each in (ROOT / package).rglob("*.py"))
        if str(path) not in HOMES
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.ExceptHandler) and node.type is not None and NAMES & _names(node.type)
    ]
    assert found == []


def _names(node: ast.AST) -> set[str]:
    return {
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    }
