"""A pooler that shares PostgreSQL's sessions is detected, and a worker behind it claims no work."""

from __future__ import annotations

import pytest

from comfyserve.db import pooling
from script.harness import graphs
from script.harness.waiting import wait_for
from tests.workflows.test_row_locks import another_session
from workflows.worker.maintenance import Maintenance


def test_a_direct_connection_is_not_a_pooler(db):
    pooling.check()


def test_two_clients_with_one_server_process_are_noticed(db):
    with another_session() as session, pytest.raises(pooling.SharedSessions, match="shares"):
        pooling.judge(session, session)


def test_dropped_settings_are_noticed(db):
    """As by a pooler that ignores the options which we start sessions with."""
    with (
        another_session() as one,
        another_session() as other,
        pytest.raises(pooling.SharedSessions, match="drops"),
    ):
        pooling.judge(one, other)


def test_a_worker_with_shared_sessions_claims_nothing(rig, monkeypatch):
    looked: list[bool] = []

    def shared() -> None:
        looked.append(True)
        raise pooling.SharedSessions("shared")

    monkeypatch.setattr(pooling, "check", shared)
    rig.slots.claiming = False
    waiting = rig.submit(graphs.colour(1))
    maintenance = Maintenance(rig.slots)
    maintenance.start()
    try:
        wait_for(lambda: looked, what="a look at the sessions")
        rig.slots.serve()
        assert not rig.slots.claiming
        assert rig.status(waiting) == "pending"
    finally:
        maintenance.stop()
