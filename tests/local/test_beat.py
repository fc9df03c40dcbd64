"""Beat sends what is due without importing the tasks."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import redis
from celery.beat import PersistentScheduler

from comfyserve.celery import app
from script.harness.waiting import wait_for
from script.local import roles
from script.local.paths import ROOT
from tests.services import services

DATABASE = 11  # of Valkey, in which nothing else listens


def schedule_with_a_cleanup_due(path: Path) -> None:
    scheduler = PersistentScheduler(app, schedule_filename=str(path))
    scheduler.schedule["clean-workflows"].last_run_at = datetime.now(UTC) - timedelta(days=1)
    scheduler.close()


def test_it_sends_a_task_that_is_due_to_its_queue(tmp_path):
    schedule = tmp_path / "beat"
    schedule_with_a_cleanup_due(schedule)
    url = urlsplit(services.redis_url)._replace(path=f"/{DATABASE}").geturl()
    broker = redis.Redis.from_url(url)
    process = subprocess.Popen(roles.beat(schedule=schedule), cwd=ROOT, env=os.environ | {"REDIS_URL": url})
    try:
        wait_for(lambda: broker.llen("default"), seconds=60, what="the task in its queue")
    finally:
        process.terminate()
        process.wait(60)
    [message] = [json.loads(each) for each in broker.lrange("default", 0, -1)]
    broker.flushdb()
    assert message["headers"]["task"] == "workflows.tasks.clean"
    assert process.returncode == 0
