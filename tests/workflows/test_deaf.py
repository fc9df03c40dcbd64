"""A websocket to ComfyUI that seems connected but delivers no events.

ComfyUI keeps one socket for a client id and forgets it when any socket of that id closes. The one that is
left answers pings for ever.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import websocket

from comfyserve.db.locks import AdvisoryLock
from script.harness.waiting import wait_for
from tests.scripted_comfyui.nodes import NodeClass
from tests.workflows.rig import Rig, gated, sleep
from tests.workflows.test_row_locks import another_session
from workflows.models import Execution
from workflows.queue import claims
from workflows.worker import runner
from workflows.worker.backend import Backend
from workflows.worker.maintenance import Maintenance
from workflows.worker.slots import Slots


def make_deaf(rig: Rig) -> None:
    """Another socket with our id comes and goes, as a half-open one does that is noticed late."""
    client_id = rig.backend.session.client_id
    address = f"{rig.comfyui.url.replace('http', 'ws')}/ws?clientId={client_id}"
    other = websocket.create_connection(address, timeout=5, suppress_origin=True)
    other.close()
    rig.comfyui.wait_for(lambda: client_id not in rig.comfyui.sockets)
    assert rig.backend.session.connected


def test_a_submission_without_a_status_message_reconnects(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 60.0)  # so that no look finds the end
    make_deaf(rig)
    generation = rig.backend.session.generation
    execution_id = rig.run(gated())
    wait_for(lambda: rig.backend.session.generation > generation, what="a new connection")
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
    assert rig.backend.session.generation == generation + 1
    assert len(rig.comfyui.submissions) == 1


def test_a_submission_with_its_status_message_keeps_the_connection(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 60.0)
    generation = rig.backend.session.generation
    rig.ends(rig.run(sleep(1.5)), "completed")
    assert rig.backend.session.generation == generation


def test_a_poll_that_finds_changes_reconnects(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 0.3)
    execution_id = rig.run_at_gate()
    generation = rig.backend.session.generation
    make_deaf(rig)
    rig.comfyui.gate.set()
    rig.ends(execution_id, "completed")
    wait_for(lambda: rig.backend.session.generation > generation, what="a new connection")


def test_two_processes_of_one_backend_do_not_make_each_other_deaf(rig, monkeypatch):
    """The standby has no connection at all; once it has the lock, it has an id of its own."""
    tried = threading.Event()
    original = Maintenance._acquire_lock

    def lock(maintenance: Maintenance) -> bool:
        had = original(maintenance)
        tried.set()
        return had

    monkeypatch.setattr(Maintenance, "_acquire_lock", lock)
    with another_session() as session:
        session.execute("SELECT pg_advisory_lock(%s, hashtext('gpu'))", [int(AdvisoryLock.BACKEND)])
        standby = Backend(name="gpu", url=rig.comfyui.url, headers={})
        maintenance = Maintenance(Slots(standby))
        maintenance.start()
        assert tried.wait(30)
        assert rig.comfyui.sockets == [rig.backend.session.client_id]
        session.execute("SELECT pg_advisory_unlock(%s, hashtext('gpu'))", [int(AdvisoryLock.BACKEND)])
        wait_for(lambda: len(rig.comfyui.sockets) == 2, what="the standby to take over")
        assert standby.session.client_id != rig.backend.session.client_id
    maintenance.stop()
    standby.close()


def test_progress_of_an_adopted_run_is_received_though_another_process_posted_it(rig, monkeypatch):
    monkeypatch.setattr(runner, "IDLE_SECONDS", 60.0)
    go_on = threading.Event()

    async def run(node: Any, *_: Any, **__: Any) -> None:
        for step in (1, 2):
            while not go_on.is_set():
                await asyncio.sleep(0.02)
            await node.progress(step, 4)
            go_on.clear()
        await node.sleep(30)

    rig.comfyui.classes["Steps"] = NodeClass(run=run, returns=("IMAGE",))
    execution_id = rig.run(
        {
            "1": {"class_type": "Steps", "inputs": {}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }
    )
    wait_for(lambda: rig.status(execution_id) == "running", what="it to run")
    rig.slots.stop(drain_seconds=0)
    assert rig.slots.wait_empty(timeout=20)
    rig.backend.close()
    rig.comfyui.wait_for(lambda: not rig.comfyui.sockets)

    following = Backend(name="gpu", url=rig.comfyui.url, headers={})
    following.connect()
    assert following.session.wait_connected(20)
    following.refresh()
    slots = Slots(following)
    slots.claiming = True
    [claim] = claims.adopt(worker="gpu", held=[])
    slots.resume(claim)
    try:
        # Its own connection, and one as the process that had posted the prompt.
        rig.comfyui.wait_for(lambda: len(rig.comfyui.sockets) == 2)
        go_on.set()
        wait_for(
            lambda: Execution.objects.get(id=execution_id).percentage > 0, what="progress of the joined run"
        )
    finally:
        slots.stop(drain_seconds=0)
        slots.wait_empty(timeout=5)
        following.close()


def test_every_process_has_an_id_of_its_own():
    made = [Backend(name="gpu", url="http://127.0.0.1:9", headers={}) for _ in range(2)]
    assert made[0].session.client_id != made[1].session.client_id
    assert all(each.session.client_id.startswith("comfyserve-gpu-") for each in made)
