"""Claims and ends in any order, by workers that may unknowingly have lost their claim.

Hypothesis drives `state_machine` on two connections. One may leave its transaction open while the other goes
on, and then commit or roll back. Beside it runs a model in plain Python that says what must come out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import hypothesis.strategies as st
import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts.models import User
from script.harness import graphs
from tests.factories import make_user
from tests.workflows.transactions import Connection
from workflows import notify
from workflows.models import ALIVE, TERMINAL, Execution, LogLine, Output, Status
from workflows.queue import claims, holds, requeueing, state_machine, submission
from workflows.queue.claims import Claim
from workflows.queue.requeueing import MAX_FAULTS, MAX_RETURNS
from workflows.queue.state_machine import Outcome

T = TypeVar("T")

WORKERS = ("gpu-0", "gpu-1")
# Not shrunk: that takes minutes. To find the shortest way to a failure, add Phase.shrink.
PHASES = (Phase.explicit, Phase.generate)


@dataclass
class Known:
    """What must be true of one execution."""

    user: int
    priority: str
    turn: float
    created_at: Any
    status: str = Status.PENDING
    token: UUID | None = None
    worker: str = ""
    posted: bool = False
    held: bool = False
    faults: int = 0
    returns: int = 0
    attempts: int = 0
    excluded: set[str] = field(default_factory=set)

    @property
    def waits(self) -> bool:
        return self.status == Status.PENDING and self.token is None and not self.held

    def end(self, status: str) -> None:
        self.status, self.token, self.held = status, None, False

    def go_back(self, *, fault: bool, hold: bool, exclude: bool) -> None:
        poison = fault and self.faults + 1 >= MAX_FAULTS
        poison |= self.status == Status.RUNNING and self.returns + 1 >= MAX_RETURNS
        if poison:
            return self.end(Status.FAILED)
        self.returns += self.status == Status.RUNNING
        self.faults += fault
        self.excluded |= {self.worker} if exclude else set()
        self.status, self.token, self.posted, self.held = Status.PENDING, None, False, hold
        return None


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.known: dict[UUID, Known] = {}
        self.claims: list[Claim] = []  # all that were ever given, also those that were lost
        self.begun: set[UUID] = set()  # tokens under which it ran
        self.first, self.second = Connection(), Connection()
        self.under_way: tuple[UUID, Callable[[], None]] | None = (
            None  # whose row is locked, what a commit means
        )

    def teardown(self) -> None:
        self._settle(commit=False)
        self.first.close()
        self.second.close()
        Execution.objects.all().delete()

    # -- two connections -----------------------------------------------------------------------------
    def _do(self, do: Callable[[], T]) -> T:
        return self.second.do(do, if_blocked=lambda: self._settle(commit=True))

    def _settle(self, *, commit: bool) -> None:
        if self.under_way is not None:
            self.first.end(commit=commit)
            _, meaning = self.under_way
            self.under_way = None
            if commit:
                meaning()

    @precondition(lambda self: self.under_way is not None)
    @rule(commit=st.booleans())
    def settle(self, commit: bool) -> None:
        self._settle(commit=commit)

    # -- what users do -------------------------------------------------------------------------------
    @rule(who=st.integers(0, 1), priority=st.sampled_from(["low", "normal", "high"]))
    def submit(self, who: int, priority: str) -> None:
        user = User.objects.order_by("id")[who]
        accepted = self._do(
            lambda: submission.submit(
                user=user, workflow=graphs.colour(1), priority=priority, timeout_minutes=1, metadata={}
            )
        )
        new = accepted.execution
        flow = [each for each in self.known.values() if (each.user, each.priority) == (user.pk, priority)]
        assert all(new.turn > each.turn for each in flow if each.status == Status.PENDING), "out of its turn"
        row = Execution.objects.get(id=new.id)
        self.known[new.id] = Known(user.pk, priority, row.turn, row.created_at)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        id_ = data.draw(st.sampled_from(list(self.known)))
        done = self._do(lambda: state_machine.cancel(id_))
        known = self.known[id_]
        assert done == (known.status in ALIVE)
        if done:
            known.end(Status.CANCELLED)

    # -- what workers do -----------------------------------------------------------------------------
    def _next(self, worker: str) -> UUID | None:
        locked = self.under_way[0] if self.under_way else None
        waiting = [
            (known.turn, known.created_at, id_)
            for id_, known in self.known.items()
            if known.waits and id_ != locked and worker not in known.excluded
        ]
        return min(waiting)[2] if waiting else None

    def _taken(self, claim: Claim | None, *, expected: UUID | None, worker: str) -> None:
        assert (claim and claim.execution_id) == expected
        if claim is not None:
            known = self.known[claim.execution_id]
            known.token, known.worker, known.attempts = claim.token, worker, known.attempts + 1
            known.posted = False
            assert claim.attempt == known.attempts
            self.claims.append(claim)

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        expected = self._next(worker)
        self._taken(self._do(lambda: claims.take(worker=worker)), expected=expected, worker=worker)

    @precondition(lambda self: self.under_way is None)
    @rule(worker=st.sampled_from(WORKERS))
    def claim_and_do_not_commit_yet(self, worker: str) -> None:
        expected = self._next(worker)
        claim = self.first.begin(lambda: claims.take(worker=worker))
        assert (claim and claim.execution_id) == expected
        if claim is None:
            self.first.end(commit=False)
            return
        id_ = claim.execution_id
        self.under_way = (id_, lambda: self._taken(claim, expected=id_, worker=worker))

    @precondition(lambda self: self.under_way is None and self.claims)
    @rule(data=st.data())
    def finish_and_do_not_commit_yet(self, data: Any) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        known = self.known[claim.execution_id]
        result = outcome(claim, begun=claim.token in self.begun)
        done = self.first.begin(lambda: state_machine.finish(claim, result))
        assert done == self._holds(claim)
        if done:
            self.under_way = (claim.execution_id, lambda: known.end(result.status))
        else:
            self.first.end(commit=False)

    def _holds(self, claim: Claim) -> bool:
        return self.known[claim.execution_id].token == claim.token

    def _with(self, claim: Claim, do: Callable[[], bool]) -> bool:
        """Do it with a claim that may be lost; whether it had an effect."""
        done = self._do(do)
        assert not done or self._holds(claim), "a lost claim had an effect"
        return done

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def post(self, data: Any) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        known = self.known[claim.execution_id]
        done = self._with(claim, lambda: claims.mark_submitted(claim, boot_id="b"))
        assert done == (self._holds(claim) and known.status == Status.PENDING)
        known.posted |= done

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def begin(self, data: Any) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        if self._with(claim, lambda: state_machine.begin(claim, total_steps=3)):
            self.known[claim.execution_id].status = Status.RUNNING
            self.begun.add(claim.token)
        else:
            assert not self._holds(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def progress(self, data: Any) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        columns = {"percentage": 50.0}
        done = self._with(claim, lambda: state_machine.write_progress(claim, columns=columns, lines=[]))
        assert done == self._holds(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def finish(self, data: Any) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        result = outcome(claim, begun=claim.token in self.begun)
        if self._with(claim, lambda: state_machine.finish(claim, result)):
            self.known[claim.execution_id].end(result.status)
        else:
            assert not self._holds(claim)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), fault=st.booleans(), hold=st.booleans(), exclude=st.booleans())
    def requeue(self, data: Any, fault: bool, hold: bool, exclude: bool) -> None:
        claim = data.draw(st.sampled_from(self.claims))
        seconds = 60.0 if hold else None

        def do() -> bool:
            return requeueing.requeue(claim, reason="x", fault=fault, exclude=exclude, hold_seconds=seconds)

        if self._with(claim, do):
            self.known[claim.execution_id].go_back(fault=fault, hold=hold, exclude=exclude)

    @precondition(lambda self: self.claims)
    @rule()
    def renew(self) -> None:
        tokens = {claim.token for claim in self.claims}
        ours = self._do(lambda: claims.renew(tokens=tokens))
        assert ours == {known.token for known in self.known.values() if known.token in tokens}

    # -- when they die -------------------------------------------------------------------------------
    @precondition(lambda self: self.under_way is None)
    @rule(worker=st.sampled_from(WORKERS), keeps=st.booleans())
    def start_anew(self, worker: str, keeps: bool) -> None:
        """A new process for this backend, or its own again after a break of the line."""
        held = {known.token for known in self.known.values() if keeps and known.token}
        adopted = self._do(lambda: claims.adopt(worker=worker, held=held))
        left = (
            {id_ for id_, known in self.known.items() if known.worker == worker and known.token}
            if not keeps
            else set()
        )
        assert {claim.execution_id for claim in adopted} == left
        for claim in adopted:
            known = self.known[claim.execution_id]
            known.token = claim.token
            self.claims.append(claim)
            if known.status == Status.RUNNING:
                self.begun.add(claim.token)

    @precondition(lambda self: self.under_way is None and self.claims)
    @rule(data=st.data(), long_ago=st.booleans())
    def let_a_lease_end(self, data: Any, long_ago: bool) -> None:
        """Its worker is dead; seen by the reaper once, then after a renewal period again."""
        claim = data.draw(st.sampled_from(self.claims))
        known = self.known[claim.execution_id]
        age = "1 day" if long_ago else "5 s"
        sql(
            "UPDATE workflows_execution SET lease_expires_at = now() - %s::interval WHERE claim_token = %s",
            age,
            claim.token,
        )
        assert self._do(requeueing.reap) == 0, "reaped before its worker could renew"
        sql(
            "UPDATE workflows_execution SET suspect_since = now() - interval '1 day' WHERE claim_token = %s",
            claim.token,
        )
        dead = self._holds(claim) and (long_ago or not known.posted)
        assert self._do(requeueing.reap) == dead
        if dead:
            known.go_back(fault=False, hold=False, exclude=False)
        else:
            self._do(lambda: claims.renew(tokens=[claim.token]))

    @precondition(lambda self: self.under_way is None)
    @rule()
    def end_the_backoff(self) -> None:
        sql("UPDATE workflows_execution SET held_until = now() - interval '1 s' WHERE held = 'backoff'")
        assert self._do(holds.lift_backoff) == sum(known.held for known in self.known.values())
        for known in self.known.values():
            known.held = False

    # -- what must be true ---------------------------------------------------------------------------
    @invariant()
    def the_rows_are_as_the_model_says(self) -> None:
        for row in Execution.objects.all():
            known = self.known[row.id]
            assert (row.status, row.claim_token, row.held is not None) == (
                known.status,
                known.token,
                known.held,
            )
            assert (row.turn, row.faults, row.returns) == (known.turn, known.faults, known.returns)
        assert Execution.objects.count() == len(self.known)

    @invariant()
    def each_ends_once_with_the_outputs_of_one_claim(self) -> None:
        ended = {id_ for id_, known in self.known.items() if known.status in TERMINAL}
        lines = LogLine.objects.filter(kind="status", data__status__in=TERMINAL)
        assert sorted(lines.values_list("execution_id", flat=True)) == sorted(ended)
        completed = {id_ for id_, known in self.known.items() if known.status == Status.COMPLETED}
        assert sorted(Output.objects.values_list("execution_id", flat=True)) == sorted(completed)


def outcome(claim: Claim, *, begun: bool) -> Outcome:
    """As its worker sees it: what ComfyUI has not begun can only have been refused."""
    if not begun:
        return Outcome(Status.FAILED, error="refused")
    return Outcome(Status.COMPLETED, outputs=[Output(group="texts", node_id="1", text=str(claim.token))])


def sql(query: str, *parameters: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)


@pytest.fixture
def two_users(transactional_db, monkeypatch):
    monkeypatch.setattr(notify, "_unless_unavailable", lambda *_: None)  # nobody listens
    return [make_user("alice"), make_user("bob")]


def test_in_any_order_each_execution_has_one_claim_and_one_end(two_users):
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=40,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
