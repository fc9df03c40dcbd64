"""What must be true when the weather is over: seen from the client's side, and behind it.

Each function yields a sentence for every promise that it finds broken.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import requests
from standardwebhooks import Webhook

from tests.faults.clients import TERMINAL, Ledger, Promise, expected, images
from tests.faults.world import World, comfyui_lines
from tests.waiting import wait_for
from tests.workflows.receiver import Call, Receiver

# ComfyUI died twice under it: the service can not know that it was not to blame, and says so.
HONEST = re.compile(r"Given up after \d+ attempts: ")


def settle(world: World, ledger: Ledger, *, seconds: float) -> None:
    """Until everything that was accepted has ended and been told, or the time is over."""
    alive = "SELECT count(*) FROM workflows_execution WHERE status IN ('pending', 'running')"
    waiting = "SELECT count(*) FROM workflows_delivery WHERE state = 'waiting'"
    for query, what in ((alive, "the end of all executions"), (waiting, "all webhooks to be delivered")):
        try:
            wait_for(partial(_is_none, world, query), seconds=seconds, what=what)
        except AssertionError as exc:
            ledger.complain(str(exc))


def _is_none(world: World, query: str) -> bool:
    return world.sql(query) == [(0,)]


def broken(world: World, ledger: Ledger, receiver: Receiver) -> list[str]:
    _ask_again(ledger)
    return [
        *ledger.complaints,
        *_of_results(ledger),
        *_of_submissions(world, ledger),
        *_of_webhooks(world, ledger, receiver),
        *_of_rows(world),
        *_of_storage(world),
        *_of_comfyui(world),
    ]


# -- from the client's side ----------------------------------------------------------------------------
def _ask_again(ledger: Ledger) -> None:
    """Once more, what the clients have seen already: terminal is final."""

    def ask(promise: Promise) -> None:
        answer = promise.owner.ask("GET", f"/workflows/{promise.id}")
        if answer is None or answer.status_code != 200:
            ledger.complain(f"{promise.id} is lost: {answer and answer.text[:200]}")
        elif answer.json()["status"] in TERMINAL:
            promise.owner.note_end(promise, answer.json())

    for promise in ledger.promises:
        promise.owner.stop.clear()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, ledger.promises))


def _of_results(ledger: Ledger) -> Iterator[str]:
    for promise in ledger.promises:
        if not promise.result:
            yield f"{promise.id} ({promise.kind}) has not ended"
            continue
        if len(promise.told) > 1:
            yield f"{promise.id} was told to be {' and '.join(sorted(promise.told))}"
        yield from _of_status(promise)


def _of_status(promise: Promise) -> Iterator[str]:
    status, error = promise.result["status"], promise.result["error"] or ""
    named = f"{promise.id} ({promise.kind} {promise.number})"
    if promise.cancelled == "yes" and status != "cancelled":
        yield f"{named} was cancelled, and is {status}"
    if status == "cancelled" and promise.cancelled not in ("yes", "perhaps"):
        yield f"{named} is cancelled, and nobody did it"
    if status == "completed":
        if promise.kind == "failing":
            yield f"{named} completed, and could not have"
        if (
            sorted(promise.seen) != sorted(expected(promise))
            or len(images(promise.result)) != promise.pictures
        ):
            yield f"{named} has the pictures {promise.seen} instead of {expected(promise)}"
    deserved = promise.kind == "failing" and f"broke {promise.number}" in error
    if status == "failed" and not deserved and not HONEST.match(error):
        yield f"{named} failed: {error}"


def _of_submissions(world: World, ledger: Ledger) -> Iterator[str]:
    """No number became two executions, but by a retry; nothing runs that nobody submitted."""
    rows = world.sql(
        "SELECT (metadata->>'number')::int, retried_from_id, count(*) FROM workflows_execution GROUP BY 1, 2"
    )
    for number, retried_from, count in rows:
        if count > 1:
            yield f"submission {number} (retry of {retried_from}) became {count} executions"
    known = {promise.id for promise in ledger.promises}
    stored = {str(id_) for (id_,) in world.sql("SELECT id FROM workflows_execution")}
    for id_ in known - stored:
        yield f"{id_} was accepted, and is not in the database"


def _of_webhooks(world: World, ledger: Ledger, receiver: Receiver) -> Iterator[str]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in receiver.calls:
        calls[call.json["execution_id"]].append(call)
    started = {str(id_) for (id_,) in world.sql(
        "SELECT execution_id FROM workflows_logline WHERE kind = 'status' AND data->>'status' = 'running'"
    )}  # fmt: skip
    for promise in ledger.promises:
        if promise.hooked and promise.result:
            yield from _of_calls(promise, calls[promise.id], started=promise.id in started)
        elif calls[promise.id]:
            yield f"{promise.id} has webhooks that nobody asked for"
    for state, count in world.sql(
        "SELECT state, count(*) FROM workflows_delivery WHERE state <> 'delivered' GROUP BY 1"
    ):
        yield f"{count} webhooks are {state}"


def _of_calls(promise: Promise, calls: list[Call], *, started: bool) -> Iterator[str]:
    first_come = list(dict.fromkeys(call.event for call in calls))
    end = f"workflow.{promise.result['status']}"
    if first_come != (["workflow.started", end] if started else [end]):
        yield f"{promise.id} ({promise.result['status']}) sent {first_come}, started: {started}"
    for event in first_come:
        ids = {call.headers.get("webhook-id") for call in calls if call.event == event}
        if len(ids) != 1:
            yield f"{promise.id} sent {event} under the ids {ids}"
    if not all(_is_signed(call, promise.owner.secret) for call in calls):
        yield f"{promise.id} sent a webhook whose signature is wrong"


def _is_signed(call: Call, secret: str) -> bool:
    """As `Webhook.verify`, which also wants it to be younger than five minutes."""
    at = datetime.fromtimestamp(int(call.headers["webhook-timestamp"]), tz=UTC)
    signature = Webhook(secret).sign(call.headers["webhook-id"], at, call.body.decode())
    return signature in call.headers["webhook-signature"].split(" ")


# -- behind it -----------------------------------------------------------------------------------------
NONE_OF = {
    "executions have not ended": "SELECT id FROM workflows_execution WHERE status IN ('pending', 'running')",
    "claims are left": "SELECT id FROM workflows_execution WHERE claim_token IS NOT NULL",
    "executions end twice in their log": """
        SELECT execution_id FROM workflows_logline
        WHERE kind = 'status' AND data->>'status' IN ('completed', 'failed', 'cancelled')
        GROUP BY 1 HAVING count(*) > 1""",
    "ended executions have no end in their log": """
        SELECT id FROM workflows_execution e WHERE NOT EXISTS (SELECT 1 FROM workflows_logline l
            WHERE l.execution_id = e.id AND l.kind = 'status' AND l.data->>'status' = e.status)""",
    "outputs' files belong to no output": """
        SELECT id FROM files_file f WHERE kind = 'output'
            AND NOT EXISTS (SELECT 1 FROM workflows_output o WHERE o.file_id = f.id)""",
    "outputs belong to executions that did not run": """
        SELECT o.id FROM workflows_output o JOIN workflows_execution e ON e.id = o.execution_id
        WHERE e.status = 'cancelled' OR e.started_at IS NULL""",
    "executions have no graph": """
        SELECT id FROM workflows_execution e
        WHERE NOT EXISTS (SELECT 1 FROM workflows_graph g WHERE g.execution_id = e.id)""",
}


SWEEP = """
from datetime import timedelta
from files import cleaning
list(cleaning.orphans(grace=timedelta(0)))
"""


def _of_rows(world: World) -> Iterator[str]:
    for what, query in NONE_OF.items():
        found = [str(row[0]) for row in world.sql(query)]
        if found:
            yield f"{len(found)} {what}: {', '.join(found[:5])}"


def _of_storage(world: World) -> Iterator[str]:
    """After the sweep, which here doesn't wait for a day: as many files as rows name, no more and no less."""
    keys = (
        "SELECT key FROM files_file"
        " UNION SELECT thumbnail_key FROM files_file WHERE thumbnail_key NOT IN ('', 'none')"
    )
    named = {key for (key,) in world.sql(keys)}
    stored = {entry.key for entry in world.bucket.objects.all()}
    print(f"  {len(stored - named)} of {len(stored)} stored files have no row and are left to the sweep")
    if missing := named - stored:
        yield f"{len(missing)} files are gone from the storage: {sorted(missing)[:5]}"
    world.stack.manage("shell", "-c", SWEEP)
    if left := {entry.key for entry in world.bucket.objects.all()} - named:
        yield f"{len(left)} files are left in the storage: {sorted(left)[:5]}"


def _of_comfyui(world: World) -> Iterator[str]:
    for comfyui in world.comfyuis:
        state = requests.get(f"{comfyui.url}/queue", timeout=10).json()
        left = [item[1] for item in state["queue_running"] + state["queue_pending"]]
        if left:
            yield f"{comfyui.url} still has {left}"


# -- what it cost --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cost:
    runs: int  # on a GPU, begun
    useful: int  # executions that ended by what their run did
    cancelled: int  # by their user, after they had begun
    posts: int  # to ComfyUI

    @property
    def in_vain(self) -> int:
        return self.runs - self.useful - self.cancelled


def cost_of(world: World) -> Cost:
    """Runs are counted by ComfyUI's own log, and those that died with it by ours."""
    [(died,)] = world.sql("SELECT coalesce(sum(faults), 0)::int FROM workflows_execution")
    counts = Counter(
        dict(
            world.sql(
                "SELECT status, count(*) FROM workflows_execution WHERE started_at IS NOT NULL GROUP BY 1"
            )
        )
    )
    [(given_up,)] = world.sql("SELECT count(*) FROM workflows_execution WHERE error LIKE 'Given up after%%'")
    return Cost(
        runs=comfyui_lines(world, "Prompt executed in") + died + given_up,
        useful=counts["completed"] + counts["failed"] - given_up,
        cancelled=counts["cancelled"],
        posts=comfyui_lines(world, "got prompt"),
    )
