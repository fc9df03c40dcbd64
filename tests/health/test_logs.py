"""Logs of the processes: each execution can be traced, and no secrets are logged."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest

from comfyserve import logs
from comfyserve.api import request_ids
from script.harness import graphs
from script.harness.receiver import Receiver, say
from script.harness.waiting import wait_for
from script.local.processes import Process

LOOKS_LIKE_A_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.")


@pytest.fixture
def json_lines(own, comfyui):
    """The processes with JSON logs; (own, a function from a process to its lines)."""
    own.end_workers()
    own.stack.start_web(env={"LOG_FORMAT": "json"})
    own.stack.start_worker(
        "json", comfyui_url=comfyui.url, env={"LOG_FORMAT": "json", "COMFYUI_NAME": "json"}, wait=False
    )
    return own, lines_of


def lines_of(process: Process) -> list[dict[str, Any]]:
    """Those that are complete: the process may be writing the next one."""
    written, _, _ = process.log.read_text(errors="replace").rpartition("\n")
    return [json.loads(line) for line in written.splitlines() if line.startswith("{")]


def test_one_execution_is_one_story_across_web_and_worker(json_lines):
    own, lines = json_lines
    person = own.stack.person("story")
    execution_id = person.execute(graphs.txt2img(text="a secret garden"))
    assert person.result(execution_id, seconds=90)["status"] == "completed"

    def story(process) -> list[dict[str, Any]]:
        return [line for line in lines(process) if line.get("execution_id") == execution_id]

    web, worker = own.stack.web, own.stack.workers["json"]
    accepted = wait_for(
        lambda: [line for line in story(web) if line["message"].startswith("Accepted")],
        what="the submission in the log of the web process",
    )[0]
    ended = wait_for(
        lambda: [line for line in story(worker) if line["message"] == "Workflow completed successfully"],
        what="the end in the worker's log",
    )[0]
    assert accepted["request_id"] == ended["request_id"]
    assert accepted["user_id"] == ended["user_id"]
    assert ended["worker"] == "json"
    for process in (web, worker):
        text = process.log.read_text()
        assert "a secret garden" not in text
        assert person.password not in text
        assert not LOOKS_LIKE_A_TOKEN.search(text)


def test_the_log_continues_with_webhooks_and_they_are_counted(json_lines):
    own, lines = json_lines
    sender = own.stack.start_worker(
        "json-webhooks", queues="webhooks", env={"LOG_FORMAT": "json"}, wait=False
    )
    person = own.stack.person("story")
    with Receiver(say(500)) as receiver:
        execution_id = person.execute(
            graphs.sleep(60), webhook_url=receiver.url, webhook_events=["workflow.cancelled"]
        )
        person.post(f"/workflows/{execution_id}/cancel")
        receiver.wait(2, seconds=90)

        def actions() -> list[str]:
            story = [line for line in lines(sender) if line.get("execution_id") == execution_id]
            return [line["action"] for line in story if "action" in line]

        # The second try too may time out on a busy machine, and be repeated.
        wait_for(
            lambda: actions()[:1] == ["webhook_waiting"] and actions()[-1] == "webhook_delivered",
            seconds=60,
            what="both tries in the log",
        )
    text = own.get("/metrics/", headers={"Accept": "text/plain"}).text
    for result in ("retried", "delivered"):
        assert re.search(
            rf'^comfyserve_webhook_deliveries_total{{result="{result}"}} [1-9]', text, re.MULTILINE
        )


def test_every_line_of_a_worker_is_json(json_lines):
    own, lines = json_lines
    worker = own.stack.workers["json"]
    wait_for(lambda: [line for line in lines(worker) if line["message"].endswith(" ready.")], seconds=60)
    written = worker.log.read_text().rpartition("\n")[0]  # it may be writing the next one
    for line in written[written.index("{") :].splitlines():  # Celery warns of root before it reads settings
        json.loads(line)


def test_a_request_is_one_line_without_its_query(json_lines):
    own, lines = json_lines
    own.get("/workflows/?token=not-for-the-log", headers={"X-Request-ID": "the-request"})

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(own.stack.web) if line.get("request_id") == "the-request"]

    [line] = wait_for(found)
    assert (line["method"], line["path"], line["status"]) == ("GET", "/workflows/", 401)
    assert "not-for-the-log" not in own.stack.web.log.read_text()


@pytest.mark.parametrize(
    "written, shown",
    [
        ("postgresql://me:hunter22@db/x", "postgresql://me:***@db/x"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer ***"),
        ("authorization: BASIC bWU6aHVudGVyMg==", "authorization: BASIC ***"),
        ("password=hunter22&x=1", "password=***&x=1"),
        ("PASSWD: hunter22", "PASSWD: ***"),
        ("secret = hunter22", "secret = ***"),
        ("?signature=hunter22&sig=hunter22", "?signature=***&sig=***"),
        ('{"api_key": "cs_12345678"}', '{"api_key": "***"}'),
        ("token eyJhbGciOiJI.eyJzdWIiOiIx.c2ln here", "token *** here"),
        ("pa\u017f\u017fword=hunter22", "pa\u017f\u017fword=***"),  # long s
        ("3 tokens of 7 were used", "3 tokens of 7 were used"),
    ],
)
def test_secrets_are_masked(written, shown):
    assert logs.scrub(written) == shown


def test_a_text_log_line_names_what_is_being_processed():
    request_ids.end()
    record = logging.makeLogRecord({"msg": "hello", "name": "x", "levelname": "INFO"})
    with logs.bound(execution_id="e-1", user_id=7):
        logs.Context().filter(record)
    assert logs.Line().format(record).endswith("INFO x [e-1 7] hello")


def test_the_previous_log_context_is_restored():
    with logs.bound(execution_id="outer"):
        with logs.bound(execution_id="inner"):
            pass
        record = logging.makeLogRecord({})
        logs.Context().filter(record)
    assert record.__dict__["execution_id"] == "outer"


@pytest.mark.parametrize("secret", ["csk_abcdefghij012", "whsec_MfKQ9r8GKYqrTwjU", "hf_abcdefghijklmno"])
def test_bare_keys_are_masked(secret):
    assert logs.scrub(f"sent {secret} there") == "sent *** there"


def test_a_newline_in_a_message_begins_no_line():
    record = logging.LogRecord("x", logging.INFO, "", 0, "a\n2026-01-01 INFO forged\rb\x1b[2J", (), None)
    assert "\n" not in (line := logs.Line().format(record))
    assert "a\\n2026-01-01 INFO forged\\rb\\x1b[2J" in line
