"""Flower, the dashboard, /metrics/, /health/detailed and /workers/ say the same of the same moment."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.flower.conftest import FlowerServer
from tests.stack import Person, Stack
from tests.waiting import wait_for
from tests.workflows import graphs

pytestmark = pytest.mark.timeout(240)

STAFF = """
    INSERT INTO accounts_user_groups (user_id, group_id)
    SELECT u.id, g.id FROM accounts_user u, auth_group g WHERE u.email = %s AND g.name = 'Operators'
"""


def operator_of(stack: Stack) -> Person:
    person = stack.person("operator")
    stack.sql("UPDATE accounts_user SET is_staff = true WHERE email = %s", person.email)
    stack.sql(STAFF, person.email)
    return person


def test_twenty_executions_that_wait_run_fail_and_are_cancelled(
    bare_stack: Stack, comfyui: Any, flower: FlowerServer
) -> None:
    stack = bare_stack
    operator, ana = operator_of(stack), stack.person("ana")
    failing = {
        **graphs.colour(7),
        "3": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "never"}},
    }

    def said() -> dict[str, tuple[int, ...]]:
        """What each says: (waiting, running)."""
        metrics = operator.get("/metrics/").json()
        text = operator.get("/metrics/", headers={"Accept": "text/plain"}).text
        waiting = sum(float(n) for n in re.findall(r"^comfyserve_waiting_executions\{.*\} (\S+)", text, re.M))
        running = re.findall(r"^comfyserve_running_executions (\S+)", text, re.M)
        workers = operator.get("/workers/").json()
        return {
            "flower": (flower.lengths()["gpu"], sum(row["active"] for row in flower.workers().values())),
            "json": (metrics["queue_size"], metrics["active_executions"]),
            "prometheus": (int(waiting), *(int(float(each)) for each in running)),
            "workers": (
                metrics["queue_size"],
                sum(worker["running"] is not None for worker in workers),
            ),
        }

    def agreed(waiting: int, running: int) -> None:
        wait_for(
            lambda: set(said().values()) == {(waiting, running)},
            seconds=30,
            what=f"{waiting} waiting and {running} running, said by all; now {said()}",
        )

    ids = [ana.execute(graphs.sleep(30.0)), ana.execute(failing)]
    ids += [ana.execute(graphs.colour(number)) for number in range(18)]
    agreed(20, 0)
    stack.start_worker("gpu", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-0"})
    flower.wait_for_state(ids[0], "STARTED")
    agreed(19, 1)
    for id_ in ids[10:]:
        assert ana.post(f"/workflows/{id_}/cancel").status_code == 200
    agreed(9, 1)
    assert ana.post(f"/workflows/{ids[0]}/cancel").status_code == 200
    agreed(0, 0)
    for id_ in ids:
        state = {"completed": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
        flower.wait_for_state(id_, state[ana.get(f"/workflows/{id_}").json()["status"]])
    row = flower.workers()["gpu-gpu-0@" + next(iter(flower.workers())).partition("@")[2]]
    assert (row["task-succeeded"], row["task-failed"]) == (8, 1)
