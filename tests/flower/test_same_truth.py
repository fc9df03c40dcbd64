"""Flower, the dashboard, /metrics/, /health/detailed and /workers/ agree at the same moment."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests

from script.harness import graphs
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from tests.flower.conftest import FlowerServer

pytestmark = pytest.mark.timeout(400)

TRUTH = """
    SELECT count(*) FILTER (WHERE status = 'pending'), count(*) FILTER (WHERE status = 'running')
    FROM workflows_execution
"""
STAFF = """
    INSERT INTO accounts_user_groups (user_id, group_id)
    SELECT u.id, g.id FROM accounts_user u, auth_group g WHERE u.email = %s AND g.name = 'Operators'
"""


FAILING = {
    **graphs.colour(7),
    "3": {"class_type": "TestFail", "inputs": {"image": ["1", 0], "message": "it broke"}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "never"}},
}


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


class Sources:
    """Everything that tells an operator about the queue, asked at about the same moment."""

    def __init__(self, stack: Stack, flower: FlowerServer) -> None:
        self._stack = stack
        self._operator = operator_of(stack)
        self._flower = flower
        self._dashboard = Dashboard(stack, self._operator)
        # Other tests may have used this database.
        self._counted_before, self._measured_before = self._counts(), self._runs_measured()

    def _metrics(self) -> str:
        return self._operator.get("/metrics/", headers={"Accept": "text/plain"}).text

    def queue(self) -> dict[str, tuple[int, int]]:
        """(waiting, running), by source."""
        figures = self._operator.get("/metrics/").json()
        workers = self._operator.get("/workers/").json()
        waiting = samples(self._metrics(), "comfyserve_waiting_executions")
        executing = "flower_worker_number_of_currently_executing_tasks"
        active = sum(row["active"] for row in self._flower.workers().values())
        return {
            "flower": (self._flower.lengths()["gpu"], active),
            "flower's metrics": (waiting, samples(self._flower.metrics(), executing)),
            "json": (figures["queue_size"], figures["active_executions"]),
            "prometheus": (waiting, samples(self._metrics(), "comfyserve_running_executions")),
            "workers": (waiting, sum(worker["running"] is not None for worker in workers)),
            "dashboard": (self._dashboard.number("Waiting"), self._dashboard.number("Running")),
        }

    def healthy_workers(self) -> dict[str, set[str]]:
        """Names of GPU workers, by source."""
        services = self._operator.get("/health/detailed").json()["services"]
        well = [each["name"] for each in services if each["status"] == "healthy"]
        online = r'^flower_worker_online\{worker="gpu-(.*?)@.*"\} 1.0$'
        seen = {name.partition("@")[0] for name, row in self._flower.workers().items() if row["status"]}
        workers = self._operator.get("/workers/").json()
        return {
            "health": {name.partition(":")[2] for name in well if name.startswith("comfyui:")},
            "workers": {each["name"] for each in workers if each["status"] == "active"},
            "flower": {name.removeprefix("gpu-") for name in seen if name.startswith("gpu-")},
            "flower's metrics": set(re.findall(online, self._flower.metrics(), re.M)),
        }

    def ended(self) -> dict[str, tuple[int, ...]]:
        """(completed, failed, cancelled) since these sources were first asked, by source."""
        return {
            source: tuple(
                now - before for now, before in zip(all_, self._counted_before[source], strict=True)
            )
            for source, all_ in self._counts().items()
        }

    def _counts(self) -> dict[str, tuple[int, ...]]:
        ours, theirs = self._metrics(), self._flower.metrics()
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
            "dashboard": tuple(self._dashboard.number(tile) for tile in ("Completed", "Failed", "Cancelled")),
        }

    def _runs_measured(self) -> int:
        return samples(self._metrics(), "comfyserve_execution_run_seconds_count")

    def runs_measured(self) -> int:
        """Since these sources were first asked."""
        return self._runs_measured() - self._measured_before

    def agree(self, *, running: int) -> int:
        """How many wait, once all sources say the same as PostgreSQL at the same moment."""

        def look() -> list[tuple[int, int]] | None:
            [truth] = self._stack.sql(TRUTH)
            return [truth] if {truth, *self.queue().values()} == {truth} and truth[1] == running else None

        try:
            [(waiting, _)] = wait_for(look, seconds=60)
        except AssertionError:
            raise AssertionError(
                f"PostgreSQL has {self._stack.sql(TRUTH)}; they say {self.queue()}"
            ) from None
        return waiting


@pytest.fixture
def sources(bare_stack: Stack, flower: FlowerServer) -> Sources:
    return Sources(bare_stack, flower)


def test_twenty_executions_that_wait_run_fail_and_are_cancelled(
    bare_stack: Stack, comfyui: Any, flower: FlowerServer, sources: Sources
) -> None:
    ana = bare_stack.person("ana")
    ids = [ana.execute(graphs.sleep(120.0)), ana.execute(FAILING)]
    ids += [ana.execute(graphs.colour(number)) for number in range(18)]
    assert sources.agree(running=0) == 20
    bare_stack.start_worker("gpu", comfyui_url=comfyui.url, env={"COMFYUI_NAME": "gpu-0"})
    flower.wait_for_state(ids[0], "STARTED")
    assert sources.agree(running=1) >= 18  # the one that fails may have gone first
    wait_for(
        lambda: all(names == {"gpu-0"} for names in sources.healthy_workers().values()),
        seconds=60,
        what=f"one worker, said by all; now {sources.healthy_workers()}",
    )
    for id_ in ids[10:]:
        assert ana.post(f"/workflows/{id_}/cancel").status_code == 200
    assert sources.agree(running=1) >= 8
    assert ana.post(f"/workflows/{ids[0]}/cancel").status_code == 200
    assert sources.agree(running=0) == 0
    for id_ in ids:
        state = {"completed": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
        flower.wait_for_state(id_, state[ana.get(f"/workflows/{id_}").json()["status"]])
    row = flower.workers()["gpu-gpu-0@" + next(iter(flower.workers())).partition("@")[2]]
    assert (row["task-succeeded"], row["task-failed"]) == (8, 1)
    wait_for(
        lambda: set(sources.ended().values()) == {(8, 1, 11)},
        seconds=60,
        what=f"8 completed, 1 failed and 11 cancelled, said by all; now {sources.ended()}",
    )
    runtimes = samples(flower.metrics(), "flower_task_runtime_seconds_count", 'task="workflows.execution"')
    # Flower has the runtime of the failed one too, unless ComfyUI did not say how long it took.
    assert runtimes - sources.runs_measured() in (0, 1)
