"""The order of the queue as a property, through submission and claims."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import UserLimits
from script.harness import graphs
from tests.factories import Api, make_user
from workflows.models import Execution, Held, Status
from workflows.queue import claims, requeueing, scheduling, state_machine, submission
from workflows.queue.claims import Claim

WEIGHTS = {"low": 1, "normal": 4, "high": 16}


def submit(api, priority: str = "normal") -> str:
    response = api.post("/workflows/execute", {"workflow": graphs.colour(1), "priority": priority})
    assert response.status_code == 200, response.content
    return response.json()["execution_id"]


def take(worker: str) -> Claim:
    claim = claims.take(worker=worker)
    assert claim is not None
    return claim


def run_next(worker: str = "gpu", *, seconds: float = 30.0):
    claim = claims.take(worker=worker)
    if claim is not None:
        assert state_machine.begin(claim, total_steps=1)
        assert state_machine.finish(claim, state_machine.Outcome(Status.COMPLETED, gpu_seconds=seconds))
    return claim


class Simulation:
    """The order without a database: one GPU, one flow after another, by the formula of docs/scheduling.md."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, str, float]] = []  # turn, number, flow, start
        self.virtual = 0.0
        self.finish: dict[str, float] = {}
        self.number = 0

    def submit(self, flow: str, *, weight: float, cost: float) -> None:
        start = max(self.virtual, self.finish.get(flow, 0.0))
        self.number += 1
        self.finish[flow] = start + cost / weight
        self.waiting.append((start + scheduling.STEP_SECONDS / weight, self.number, flow, start))

    def next(self) -> str:
        chosen = min(self.waiting)
        self.waiting.remove(chosen)
        self.virtual = max(self.virtual, chosen[3])
        return chosen[2]


@pytest.mark.django_db
@pytest.mark.parametrize("rows_at_once", [2, 100])
def test_executions_that_are_submitted_together_follow_one_another(monkeypatch, rows_at_once):
    monkeypatch.setattr(submission, "ROWS_AT_ONCE", rows_at_once)
    user = make_user("ada")
    before = Execution.objects.get(id=submission.submit(user=user, workflow=graphs.colour(1)).execution.id)
    workflows = [graphs.colour(1) for _ in range(5)]
    for workflow, width in zip(workflows, (8, 32, 8, 24, 32), strict=True):
        workflow["1"]["inputs"]["width"] = width
    works = [submission.read(workflow, user=user) for workflow in workflows]
    executions, _ = submission.submit_works(user=user, prepared=submission.prepare(works, user=user))
    assert len({execution.kind for execution in executions}) == 3
    for execution in executions:
        assert execution.start == pytest.approx(before.finish)
        assert execution.turn == pytest.approx(execution.start + scheduling.STEP_SECONDS / WEIGHTS["normal"])
        assert execution.finish == pytest.approx(execution.start + execution.cost / WEIGHTS["normal"])
        before = execution


@settings(deadline=None)
@given(
    backlog=st.integers(10, 300),
    cost=st.floats(1, 600),
    others=st.integers(1, 4),
)
def test_a_light_user_waits_for_few_of_a_heavy_users_executions(backlog, cost, others):
    queue = Simulation()
    for _ in range(backlog):
        queue.submit("heavy", weight=4, cost=cost)
    for i in range(others):
        queue.submit(f"light{i}", weight=4, cost=cost)
    served = [queue.next() for _ in range(2 * others + 2)]
    assert sum(flow != "heavy" for flow in served) >= others


def test_weights_hold_under_full_load():
    queue = Simulation()
    for flow, weight in WEIGHTS.items():
        for _ in range(400):
            queue.submit(flow, weight=weight, cost=10)
    served = Counter(queue.next() for _ in range(210))
    assert served["high"] == pytest.approx(160, abs=3)
    assert served["normal"] == pytest.approx(40, abs=3)
    assert served["low"] == pytest.approx(10, abs=3)


@settings(deadline=None)
@given(st.data())
def test_no_flow_starves(data):
    queue = Simulation()
    flows = {f"user{i}": data.draw(st.sampled_from(list(WEIGHTS.values()))) for i in range(5)}
    for flow, weight in flows.items():
        queue.submit(flow, weight=weight, cost=30)
    served: list[str] = []
    # A low flow is next once virtual time has passed its step, 10 s. Four high ones at 4 s each move it on
    # by 12.5 in 200 turns; shorter ones would need more turns, not starve anybody.
    for _ in range(200):
        flow = queue.next()
        served.append(flow)
        queue.submit(flow, weight=flows[flow], cost=data.draw(st.floats(4, 60)))
    assert set(served) == set(flows)


@pytest.mark.django_db
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_queue_position_agrees_with_the_order_of_claims(seed):
    Execution.objects.all().delete()
    chance = random.Random(seed)
    people = [Api.of(make_user(f"p{seed}-{i}")) for i in range(3)]
    where: dict[str, Api] = {}
    for _ in range(12):
        api = chance.choice(people)
        where[submit(api, chance.choice(list(WEIGHTS)))] = api
        if chance.random() < 0.2:
            claim = run_next(seconds=chance.uniform(1, 100))
            where.pop(str(claim.execution_id))
        if chance.random() < 0.1 and where:
            cancelled = chance.choice(list(where))
            where.pop(cancelled).post(f"/workflows/{cancelled}/cancel")
    said = {id_: api.get(f"/workflows/{id_}/status").json()["queue_position"] for id_, api in where.items()}
    order = []
    while claim := claims.take(worker="gpu"):
        order.append(str(claim.execution_id))
    assert sorted(said, key=said.__getitem__) == order
    assert sorted(said.values()) == list(range(1, len(order) + 1))


def test_one_who_cancels_a_thousand_pays_nothing(alice, bob):
    for _ in range(30):
        alice.post(f"/workflows/{submit(alice)}/cancel")
    mine, theirs = submit(alice), submit(bob)
    assert str(take("gpu").execution_id) == mine
    assert str(take("gpu").execution_id) == theirs


def test_a_requeued_execution_keeps_its_turn(alice):
    first, second = submit(alice), submit(alice)
    claim = take("gpu")
    assert requeueing.requeue(claim, reason="a test")
    assert str(take("gpu").execution_id) == first
    assert str(take("gpu").execution_id) == second


def test_a_held_execution_does_not_block_others(alice):
    held, free = submit(alice), submit(alice)
    Execution.objects.filter(id=held).update(held=Held.BACKOFF)
    assert alice.get(f"/workflows/{free}/status").json()["queue_position"] == 1
    assert str(take("gpu").execution_id) == free
    assert claims.take(worker="gpu") is None


def test_an_execution_that_a_worker_cannot_run_is_left_to_others(alice):
    execution_id = submit(alice)
    assert requeueing.requeue(take("poor"), reason="no model", exclude=True)
    assert claims.take(worker="poor") is None
    assert str(take("rich").execution_id) == execution_id


def test_staff_caps_a_users_priority(db):
    user = make_user("capped")
    UserLimits.objects.create(user=user, highest_priority="normal")
    execution_id = submit(Api.of(user), "high")
    assert Execution.objects.get(id=execution_id).priority == "normal"


def test_running_at_once_holds_the_users_others(db, bob):
    user = make_user("limited")
    UserLimits.objects.create(user=user, executions_running=1)
    api = Api.of(user)
    first, second = submit(api), submit(api)
    theirs = submit(bob)
    claim = take("gpu")
    assert str(claim.execution_id) == first
    assert str(take("gpu").execution_id) == theirs
    assert claims.take(worker="gpu") is None
    state_machine.begin(claim, total_steps=1)
    state_machine.finish(claim, state_machine.Outcome(Status.COMPLETED, gpu_seconds=1))
    assert str(take("gpu").execution_id) == second
