"""Flower, the dashboard, /metrics/, /health/detailed and /workers/ say the same of the same moment."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests

from script.harness import graphs
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from tests.flower.conftest import FlowerServer

pytestmark = pytest.mark.timeout(240)

TRUTH = """
    SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'running')
    FROM workflows_execution
"""
STAFF = """
    INSERT INTO accounts_user_groups (user_id, group_id)
    SELECT u.id, g.id FROM accounts_user u, auth_group g WHERE u.email = %s AND g.name = 'Operators'
"""


def operator_of(stack: Stack) -> Person:
    person = stack.person("operator")
    stack.sql("UPDATE accounts_user SET is_staff = true WHERE email = %s", person.email)
    stack.sql(STAFF, person.email)
    return person


class Dashboard:
    """The console's first page, as an operator's browser asks for it."""

    def __init__(self, stack: Stack, operator: Person) -> None:
        self.session = requests.Session()
        self.url = f"{stack.url}/admin/"
        self.session.get(f"{self.url}login/", timeout=30)
        form = {
            "username": operator.email,
            "password": operator.password,
            "csrfmiddlewaretoken": self.session.cookies["csrftoken"],
        }
        answer = self.session.post(f"{self.url}login/", form, timeout=30, allow_redirects=False)
        assert answer.status_code == 302, answer.text

    def words(self) -> str:
        page = self.session.get(f"{self.url}dashboard/live/", timeout=30)
        assert page.status_code == 200, page.text
        return " ".join(re.sub(r"<[^>]+>", " ", page.text).split())

    def number(self, tile: str) -> int:
        found = re.search(rf"\b{tile} (\d+)", self.words())
        assert found, self.words()
        return int(found.group(1))


def samples(text: str, name: str, *labels: str) -> int:
    """The sum of the series of that name that have the labels, such as `status="failed"`."""
    lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", text, re.M)
    return int(sum(float(value) for found, value in lines if all(each in found for each in labels)))


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

    dashboard = Dashboard(stack, operator)

    def metrics() -> str:
        return operator.get("/metrics/", headers={"Accept": "text/plain"}).text

    def said() -> dict[str, tuple[int, int]]:
        """What each says: (waiting, running)."""
        figures = operator.get("/metrics/").json()
        workers = operator.get("/workers/").json()
        waiting = samples(metrics(), "comfyserve_waiting_executions")
        executing = "flower_worker_number_of_currently_executing_tasks"
        return {
            "flower": (flower.lengths()["gpu"], sum(row["active"] for row in flower.workers().values())),
            "flower's metrics": (waiting, samples(flower.metrics(), executing)),
            "json": (figures["queue_size"], figures["active_executions"]),
            "prometheus": (waiting, samples(metrics(), "comfyserve_running_executions")),
            "workers": (waiting, sum(worker["running"] is not None for worker in workers)),
            "dashboard": (dashboard.number("Waiting"), dashboard.number("Running")),
        }

    def workers_said() -> dict[str, set[str]]:
        """Names of the GPU workers that are well, as each says."""
        services = operator.get("/health/detailed").json()["services"]
        well = [each["name"] for each in services if each["status"] == "healthy"]
        online = re.findall(r'^flower_worker_online\{worker="gpu-(.*?)@.*"\} 1.0$', flower.metrics(), re.M)
        seen = {name.partition("@")[0] for name, row in flower.workers().items() if row["status"]}
        return {
            "health": {name.partition(":")[2] for name in well if name.startswith("comfyui:")},
            "workers": {
                each["name"] for each in operator.get("/workers/").json() if each["status"] == "active"
            },
            "flower": {name.removeprefix("gpu-") for name in seen if name.startswith("gpu-")},
            "flower's metrics": set(online),
        }

    def counts() -> dict[str, tuple[int, ...]]:
        """Of those that ever ended: (completed, failed, cancelled)."""
        ours, theirs = metrics(), flower.metrics()
        task = 'task="workflows.execution"'
        return {
            "prometheus": tuple(
                samples(ours, "comfyserve_executions_ended_total", f'status="{status}"')
                for status in ("completed", "failed", "cancelled")
            ),
            "flower's metrics": tuple(
                samples(theirs, "flower_events_total", f'type="task-{type_}"', task)
                for type_ in ("succeeded", "failed", "revoked")
            ),
            "dashboard": tuple(dashboard.number(tile) for tile in ("Completed", "Failed", "Cancelled")),
        }

    def runs_measured() -> int:
        return samples(metrics(), "comfyserve_execution_run_seconds_count")

    # Other tests may have used this database.
    counts_before, runs_before = counts(), runs_measured()

    def ended_said() -> dict[str, tuple[int, ...]]:
        """The same, since this test began."""
        return {
            who: tuple(now - before for now, before in zip(said_now, counts_before[who], strict=True))
            for who, said_now in counts().items()
        }

    def agreed(*, running: int) -> int:
        """How many wait, when all say so of the same moment."""

        def look() -> list[tuple[int, int]] | None:
            [truth] = stack.sql(TRUTH)
            return [truth] if {truth, *said().values()} == {truth} and truth[1] == running else None

        try:
            [(waiting, _)] = wait_for(look, seconds=60)
        except AssertionError:
            raise AssertionError(f"PostgreSQL has {stack.sql(TRUTH)}; they say {said()}") from None
        return waiting

    ids = [ana.execute(graphs.sleep(120.0)), ana.execute(failing)]
    ids += [ana.execute(graphs.colour(number)) for number in range(18)]
    assert agreed(running=0) == 20
    stack.start_worker("gpu", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-0"})
    flower.wait_for_state(ids[0], "STARTED")
    assert agreed(running=1) >= 18  # the one that fails may have gone first
    wait_for(
        lambda: all(names == {"gpu-0"} for names in workers_said().values()),
        seconds=30,
        what=f"one worker, said by all; now {workers_said()}",
    )
    for id_ in ids[10:]:
        assert ana.post(f"/workflows/{id_}/cancel").status_code == 200
    assert agreed(running=1) >= 8
    assert ana.post(f"/workflows/{ids[0]}/cancel").status_code == 200
    assert agreed(running=0) == 0
    for id_ in ids:
        state = {"completed": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
        flower.wait_for_state(id_, state[ana.get(f"/workflows/{id_}").json()["status"]])
    row = flower.workers()["gpu-gpu-0@" + next(iter(flower.workers())).partition("@")[2]]
    assert (row["task-succeeded"], row["task-failed"]) == (8, 1)
    wait_for(
        lambda: set(ended_said().values()) == {(8, 1, 11)},
        seconds=30,
        what=f"8 completed, 1 failed and 11 cancelled, said by all; now {ended_said()}",
    )
    runtimes = samples(flower.metrics(), "flower_task_runtime_seconds_count", 'task="workflows.execution"')
    # Flower has the runtime of the failed one too, unless ComfyUI did not say how long it took.
    assert runtimes - (runs_measured() - runs_before) in (0, 1)
