from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.local import commands


def test_it_names_the_queues_when_one_does_not_exist(tmp_path: Path) -> None:
    done = commands.run("worker", "cpu", data=tmp_path)
    assert done.returncode == 1
    assert "There is no queue cpu. Queues: gpu, models, webhooks, default" in done.stderr


def test_it_says_what_is_missing_where_nothing_runs(tmp_path: Path) -> None:
    done = commands.run("worker", "default", data=tmp_path)
    assert done.returncode == 1
    assert "Start script/serve first" in done.stderr


def test_it_refuses_a_backend_name_that_does_not_fit(tmp_path: Path) -> None:
    named: dict[str, Any] = {
        "SECRET_KEY": "x",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "COMFYUI_NAME": "a b",
    }
    done = commands.run("worker", "gpu", data=tmp_path, **named)
    assert done.returncode == 1
    assert "COMFYUI_NAME='a b'" in done.stderr
    assert "Traceback" not in done.stderr
