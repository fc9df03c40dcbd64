"""Process faults: killed, stopped, frozen; two for one backend; started while Valkey is down."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from functools import partial

import requests
import websocket

from script.fault_injection.cluster import GPUS, Cluster
from script.fault_injection.fault import BRIEF, LONG, CannotBegin, Fault, Undo, nothing, wait_in
from script.fault_injection.parts import Part

STOP_SECONDS = 13.0  # DRAIN_SECONDS plus ten, as script/serve gives its workers
# What a worker's execution may be doing when the worker is stopped.
STATES = {
    "fetches inputs": "claim_token IS NOT NULL AND posted_at IS NULL",
    "has a queued prompt": "claim_token IS NOT NULL AND posted_at IS NOT NULL AND status = 'pending'",
    "runs": "claim_token IS NOT NULL AND status = 'running'",
}
IDLE = """
    SELECT 1 FROM workflows_worker WHERE name = %s AND idle
        AND NOT EXISTS (SELECT FROM workflows_execution WHERE worker = name AND claim_token IS NOT NULL)
"""


def of(cluster: Cluster, chance: random.Random) -> Iterator[Fault]:
    for part in cluster.parts.values():
        if part.kind != "PostgreSQL":  # handled below
            yield from _of_any(part)
    for name in GPUS:
        part = cluster.parts[name]
        yield from _stopped_in_each_state(cluster, part, chance)
        yield Fault("second GPU worker comes and goes", (name,), partial(_second, part, stays=False), (LONG,))
        yield Fault("second GPU worker takes over", (name,), partial(_second, part, stays=True), (LONG,))
        yield Fault(
            "socket of a GPU worker's id closed", (name,), partial(_close_id, cluster, name), (BRIEF,)
        )
    for name in (*GPUS, "rest", "web"):
        part = cluster.parts[name]
        begin = partial(_started_alone, part, cluster.parts["Valkey"])
        yield Fault(f"{part.kind} started without Valkey", (name, "Valkey"), begin, ((6.0, 15.0),))


def _of_any(part: Part) -> Iterator[Fault]:
    name, kind = part.name, part.kind
    yield Fault(f"{kind} killed", (name,), partial(_kill, part), (BRIEF, LONG))
    yield Fault(f"{kind} frozen", (name,), partial(_freeze, part), ((0.5, 5.0), (8.0, 30.0)))
    if kind not in ("storage", "ComfyUI", "Valkey"):
        yield Fault(f"{kind} stopped", (name,), partial(stop, part), (BRIEF, LONG))


def _kill(part: Part) -> Undo:
    part.kill()
    return part.start


def _freeze(part: Part) -> Undo:
    part.freeze()
    return part.thaw


def stop(part: Part, number: signal.Signals = signal.SIGTERM) -> Undo:
    part.ask_to_stop(number)

    def start_again() -> None:
        if part.insist(seconds=STOP_SECONDS):
            print(f"  {part.name} had not exited after {STOP_SECONDS:g} s and was killed", flush=True)
        part.start()

    return start_again


# -- SIGTERM in each state -------------------------------------------------------------------------------
def _stopped_in_each_state(cluster: Cluster, part: Part, chance: random.Random) -> Iterator[Fault]:
    for state, condition in STATES.items():
        query = f"SELECT 1 FROM workflows_execution WHERE worker = %s AND {condition}"
        begin = partial(_stop_when, cluster, part, query)
        yield Fault(f"GPU worker stopped while it {state}", (part.name,), begin, (BRIEF, LONG))
    idle = partial(_stop_when, cluster, part, IDLE)
    yield Fault("GPU worker stopped while it is idle", (part.name,), idle, (BRIEF,))
    collecting = partial(_stop_while_collecting, cluster, part)
    yield Fault("GPU worker stopped while it stores outputs", (part.name, "storage"), collecting, (LONG,))
    starting = partial(_stop_while_starting, part, chance)
    yield Fault("GPU worker stopped while it starts", (part.name,), starting, (BRIEF,))


def _stop_when(cluster: Cluster, part: Part, query: str) -> Undo:
    wait_in(cluster.database_url, query, part.name)
    return stop(part)


def _stop_while_collecting(cluster: Cluster, part: Part) -> Undo:
    """Its run has ended in ComfyUI, and storage is too slow for its outputs."""
    line, comfyui = cluster.links["storage"], cluster.comfyuis[GPUS.index(part.name)]
    running = "SELECT id FROM workflows_execution WHERE worker = %s AND claim_token IS NOT NULL"
    line.slow(1.0)
    end = time.monotonic() + 5.0
    try:
        while time.monotonic() < end:
            held = cluster.sql(running, part.name)
            if any(_has_ended(comfyui.url, str(id_)) for (id_,) in held):
                return _both(stop(part), line.mend)
        raise CannotBegin("nothing was stored")
    except BaseException:
        line.mend()
        raise


def _has_ended(url: str, prompt_id: str) -> bool:
    try:
        return bool(requests.get(f"{url}/history/{prompt_id}", timeout=2).json())
    except (requests.RequestException, ValueError):
        return False


def _both(first: Undo, second: Undo) -> Undo:
    def do() -> None:
        second()
        first()

    return do


def _stop_while_starting(part: Part, chance: random.Random) -> Undo:
    part.kill()
    part.start()
    time.sleep(chance.uniform(0.2, 3.0))
    return stop(part)


# -- two for one backend ---------------------------------------------------------------------------------
def _second(part: Part, *, stays: bool) -> Undo:
    """Start another process for the same backend. Eventually one of them exits in an orderly way."""
    second = Part(part.kind, f"{part.name} (second)", part.new_process)
    second.start()

    def end() -> None:
        goes, remains = (part, second) if stays else (second, part)
        process = remains.process
        goes.ask_to_stop()
        goes.insist(seconds=STOP_SECONDS)
        part.adopt(process)

    return end


def _close_id(cluster: Cluster, name: str) -> Undo:
    """Open and close another websocket with the worker's client id: ComfyUI forgets the worker's own."""
    comfyui = cluster.comfyuis[GPUS.index(name)]
    for client_id in _client_ids(comfyui.url):
        address = f"{comfyui.url.replace('http', 'ws', 1)}/ws?clientId={client_id}"
        websocket.create_connection(address, timeout=3).close()
    return nothing


def _client_ids(url: str) -> set[str]:
    end = time.monotonic() + 4.0
    while time.monotonic() < end:
        try:
            state = requests.get(f"{url}/queue", timeout=2).json()
        except (requests.RequestException, ValueError):
            raise CannotBegin("ComfyUI does not respond") from None
        found = {item[3]["client_id"] for item in state["queue_running"] + state["queue_pending"]}
        if found:
            return found
        time.sleep(0.02)
    raise CannotBegin("nothing ran")


# -- started while Valkey is down ------------------------------------------------------------------------
def _started_alone(part: Part, valkey: Part) -> Undo:
    valkey.kill()
    part.kill()
    part.start()
    return valkey.start
