"""Prometheus' own tool checks our metrics and the alert rules in docs/monitoring/.

Debian has it in the package `prometheus`. Not installed: skipped, except in CI, where it must be there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest
import yaml
from django.test import Client

from script.harness.waiting import wait_for
from script.local.paths import ROOT
from workflows.metrics.store import METRICS

FOLDER = ROOT / "docs" / "monitoring"
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool") and not os.environ.get("CI"), reason="promtool is not installed"
)


def promtool(*arguments: str, text: str | None = None) -> tuple[int, str]:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, cwd=FOLDER)
    return done.returncode, done.stdout + done.stderr


def exposition() -> str:
    """What Prometheus reads; on a busy machine the database may once not answer in time."""

    def look() -> str | None:
        answer = Client().get("/metrics/", headers={"Accept": "text/plain"})
        return answer.content.decode() if answer.status_code == 200 else None

    return wait_for(look, seconds=60, what="the metrics")


@needs_promtool
def test_the_alert_rules_are_valid():
    code, said = promtool("check", "rules", "alerts.yaml")
    assert code == 0, said


@needs_promtool
def test_the_alerts_fire_when_they_should():
    code, said = promtool("test", "rules", "alerts_test.yaml")
    assert code == 0, said


@needs_promtool
@pytest.mark.django_db(transaction=True)
def test_the_metrics_are_named_as_prometheus_wants():
    code, said = promtool("check", "metrics", text=exposition())
    assert code == 0, said


@pytest.mark.django_db(transaction=True)
def test_every_metric_of_the_rules_is_one_that_we_have():
    ours = set(re.findall(r"^# TYPE (\w+)", exposition(), re.MULTILINE))
    ours |= {f"comfyserve_{name}_{part}" for name in METRICS for part in ("total", "bucket", "count", "sum")}
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    used = {name for rule in rules for name in re.findall(r"comfyserve_\w+", rule["expr"])}
    assert used <= ours
