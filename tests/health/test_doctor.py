"""manage.py doctor."""

from __future__ import annotations

import subprocess
import sys

from script.local.paths import ROOT


def doctor(own, *arguments: str, **env: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, ROOT / "manage.py", "doctor", *arguments],
        env={**own.stack.env, **env}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def lines(text: str, subject: str) -> list[str]:
    return [line for line in text.splitlines() if line.split()[1:2] == [subject]]


def test_healthy_parts_are_ok_and_missing_ones_say_what_to_do(own):
    code, text = doctor(own)
    for subject in ("database", "migrations", "clock", "redis", "storage", "disk"):
        assert lines(text, subject)[0].startswith("ok"), text
    assert code == 1  # no worker runs
    assert "BAD   workers     no GPU worker has reported\n" in text
    assert "-> Start a GPU worker: script/worker gpu" in text


def test_it_ends_well_where_nothing_is_wrong(own, comfyui):
    own.stack.start_worker(
        "gpu", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-1"}, keep=True, wait=False
    )
    own.stack.start_worker("rest", queues="default,models,webhooks", keep=True, wait=False)
    for name in ("comfyui:gpu-1", "celery:gpu", "celery:default"):
        own.service(name, "healthy", seconds=60)
    code, text = doctor(own, COMFYUI_URL=comfyui.url)
    assert code == 0, text
    assert lines(text, "comfyui")[0].startswith("ok"), text
    assert text.endswith("All checks passed\n")


def test_unavailable_servers_are_named_and_the_rest_is_checked(own):
    own.postgres.process.kill()
    own.valkey.process.kill()
    code, text = doctor(own)
    assert code == 1
    assert "Connection refused" in lines(text, "database")[0]
    assert lines(text, "redis")[0].startswith("BAD")
    assert lines(text, "storage")[0].startswith("ok")
    assert own.postgres.password not in text
    assert own.valkey.password not in text


def test_missing_migrations_are_named(own):
    with own.without_a_migration() as name:
        _, text = doctor(own)
    assert name in lines(text, "migrations")[0]
    assert "-> Run manage.py migrate" in text


def test_a_short_key_is_reported(own):
    _, text = doctor(own, "--before-start", SECRET_KEY="short")
    assert "BAD   settings    SECRET_KEY has 5 characters" in text


def test_before_the_start_no_server_is_needed(own):
    away = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1/0"}
    code, text = doctor(own, "--before-start", **away)
    assert code == 0, text
