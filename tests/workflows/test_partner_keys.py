"""Keys for nodes of partner services: sent to ComfyUI only, and erased with the end of the execution."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from django.db import connection

from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.rig import Rig, gated
from workflows.models import Graph
from workflows.queue import partner_keys

KEY, TOKEN = "comfyui-0123456789abcdef", "eyJhbGciOi.of-a-login"
SECRETS = {"api_key_comfy_org": KEY, "auth_token_comfy_org": TOKEN}


def by_comfyui_routes(rig: Rig, graph: graphs.Graph) -> str:
    answer = rig.api.post("/comfyui/prompt", {"prompt": graph, "extra_data": SECRETS})
    return str(answer.json()["prompt_id"])


def by_comfy_v2(rig: Rig, graph: graphs.Graph) -> str:
    answer = rig.api.post("/api/v2/jobs", {"workflow": graph, "extra_data": SECRETS})
    return str(answer.json()["id"])


def by_rest(rig: Rig, graph: graphs.Graph) -> str:
    answer = rig.api.post("/workflows/execute", {"workflow": graph, "extra_data": SECRETS})
    return str(answer.json()["execution_id"])


def all_answers(rig: Rig, id_: str) -> str:
    """All that the API answers about it."""
    paths = [
        f"/workflows/{id_}", f"/workflows/{id_}/logs", "/workflows/",
        "/comfyui/queue", "/comfyui/history", f"/comfyui/history/{id_}",
        "/api/v2/jobs", f"/api/v2/jobs/{id_}", f"/api/v2/jobs/{id_}/workflow",
    ]  # fmt: skip
    answers = [rig.api.get(path) for path in paths]
    assert {answer.status_code for answer in answers} <= {200}, [each.content for each in answers]
    return "\n".join(answer.content.decode() for answer in answers)


def stored() -> str:
    """Every row of every table."""
    with connection.cursor() as cursor:
        found = []
        for table in connection.introspection.table_names():
            cursor.execute(f"SELECT coalesce(string_agg(t::text, chr(10)), '') FROM \"{table}\" t")
            found.append(cursor.fetchone()[0])
    return "\n".join(found)


def assert_absent(text: str) -> None:
    assert KEY not in text
    assert TOKEN not in text


@pytest.mark.parametrize("submit", [by_comfyui_routes, by_comfy_v2, by_rest])
def test_they_reach_comfyui_and_nothing_else(rig, submit, caplog):
    caplog.set_level(logging.DEBUG)
    id_ = submit(rig, gated())
    assert_absent(stored())
    assert Graph.objects.get(execution_id=id_).extras[partner_keys.FIELD]
    rig.slots.serve_in_thread()
    wait_for(lambda: rig.status(id_) == "running", what="it to run")
    assert_absent(all_answers(rig, id_) + stored())
    rig.comfyui.gate.set()
    rig.ends(id_, "completed")
    [sent] = rig.comfyui.submissions
    assert SECRETS.items() <= sent.body["extra_data"].items()
    assert partner_keys.FIELD not in Graph.objects.get(execution_id=id_).extras
    assert_absent(all_answers(rig, id_) + stored())
    assert_absent("\n".join(record.getMessage() for record in caplog.records))
    wait_for(lambda: not rig.comfyui.history, what="ComfyUI's history to be deleted")


def test_a_cancelled_execution_has_none_and_its_retry_none_either(rig):
    id_ = by_rest(rig, graphs.colour(1))
    assert rig.cancel(id_) == 200
    assert Graph.objects.get(execution_id=id_).extras == {}
    again = rig.api.post(f"/workflows/{id_}/retry").json()["execution_id"]
    assert Graph.objects.get(execution_id=again).extras == {}


def test_a_node_that_puts_one_into_its_error_does_not_publish_it(rig, caplog):
    caplog.set_level(logging.DEBUG)
    graph: dict[str, Any] = {
        "1": {"class_type": "Fail", "inputs": {"message": f"401 for the key {KEY}"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    id_ = by_rest(rig, graph)
    rig.slots.serve_in_thread()
    result = rig.ends(id_, "failed")
    assert "401 for the key" in json.dumps(result["error"])
    assert_absent(json.dumps([result["error"], result.get("error_details")]))
    assert_absent("\n".join(record.getMessage() for record in caplog.records))


def test_keys_of_another_secret_key_are_left_out(rig, settings):
    id_ = by_rest(rig, graphs.colour(2))
    settings.SECRET_KEY = "another" * 10
    rig.slots.serve_in_thread()
    wait_for(lambda: rig.status(id_) == "completed", what="its end")
    [sent] = rig.comfyui.submissions
    assert "api_key_comfy_org" not in (sent.body.get("extra_data") or {})
