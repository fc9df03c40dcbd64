"""The clients' invariants after the faults.

Each function yields a sentence for every violation.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from standardwebhooks import Webhook

from script.fault_injection.clients import Ledger, Promise, expected, images
from script.fault_injection.cluster import Cluster
from script.fault_injection.listener import TERMINAL
from script.harness.receiver import Call, Receiver

# ComfyUI died twice during it: the service cannot rule out that the execution was the cause, and says so.
HONEST = re.compile(r"Given up after \d+ attempts: ")


def broken_for_clients(cluster: Cluster, ledger: Ledger, receiver: Receiver) -> list[str]:
    _ask_again(ledger)
    return [
        *ledger.complaints,
        *_of_results(ledger),
        *_of_submissions(cluster, ledger),
        *_of_webhooks(cluster, ledger, receiver),
        *_of_streams(ledger),
        *_of_fairness(cluster, ledger),
    ]


def _ask_again(ledger: Ledger) -> None:
    """Read everything again that clients have seen: terminal statuses are final."""

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
        if len(promise.seen_statuses) > 1:
            yield f"{promise.id} was reported as {' and '.join(sorted(promise.seen_statuses))}"
        yield from _of_status(promise)


def _of_status(promise: Promise) -> Iterator[str]:
    status, error = promise.result["status"], promise.result["error"] or ""
    named = f"{promise.id} ({promise.kind} {promise.number})"
    if promise.cancelled == "yes" and status != "cancelled":
        yield f"{named} was cancelled, and is {status}"
    if status == "cancelled" and promise.cancelled not in ("yes", "perhaps"):
        yield f"{named} is cancelled, but nobody cancelled it"
    if status == "completed":
        if promise.kind == "failing":
            yield f"{named} completed, but could not have"
        if (
            sorted(promise.seen) != sorted(expected(promise))
            or len(images(promise.result)) != promise.pictures
        ):
            yield f"{named} has the images {promise.seen} instead of {expected(promise)}"
    deserved = promise.kind == "failing" and f"broke {promise.number}" in error
    if status == "failed" and not deserved and not HONEST.match(error):
        yield f"{named} failed: {error}"


def _of_submissions(cluster: Cluster, ledger: Ledger) -> Iterator[str]:
    """No number became two executions, except by a retry; nothing runs that was not submitted."""
    rows = cluster.sql(
        "SELECT (metadata->>'number')::int, retried_from_id, count(*) FROM workflows_execution GROUP BY 1, 2"
    )
    for number, retried_from, count in rows:
        if count > 1:
            yield f"submission {number} (retry of {retried_from}) became {count} executions"
    known = {promise.id for promise in ledger.promises}
    stored = {str(id_) for (id_,) in cluster.sql("SELECT id FROM workflows_execution")}
    for id_ in known - stored:
        yield f"{id_} was accepted, but is not in the database"


def _of_webhooks(cluster: Cluster, ledger: Ledger, receiver: Receiver) -> Iterator[str]:
    calls: dict[str, list[Call]] = defaultdict(list)
    for call in receiver.calls:
        calls[call.json["execution_id"]].append(call)
    started = {str(id_) for (id_,) in cluster.sql(
        "SELECT execution_id FROM workflows_logline WHERE kind = 'status' AND data->>'status' = 'running'"
    )}  # fmt: skip
    for promise in ledger.promises:
        if promise.hooked and promise.result:
            yield from _of_calls(promise, calls[promise.id], started=promise.id in started)
        elif calls[promise.id]:
            yield f"{promise.id} has webhooks that were not requested"
    for state, count in cluster.sql(
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
    """As `Webhook.verify`, which also requires it to be younger than five minutes."""
    at = datetime.fromtimestamp(int(call.headers["webhook-timestamp"]), tz=UTC)
    signature = Webhook(secret).sign(call.headers["webhook-id"], at, call.body.decode())
    return signature in call.headers["webhook-signature"].split(" ")


# -- streams of all executions ---------------------------------------------------------------------------
def _of_streams(ledger: Ledger) -> Iterator[str]:
    """Every end was received exactly once, with one event id, or the stream reported a gap."""
    owned: dict[str, set[str]] = defaultdict(set)
    for promise in ledger.promises:
        if promise.result:
            owned[promise.owner.name].add(promise.id)
    for owner in {promise.owner.name: promise.owner for promise in ledger.promises}.values():
        heard = owner.listener
        yield from heard.complaints
        missing = owned[owner.name] - set(heard.ends)
        if missing and not heard.gaps:
            yield f"the stream of {owner.name} missed the end of {sorted(missing)[:5]} ({len(missing)})"
        for id_, numbers in heard.ends.items():
            if len(numbers) > 1:
                yield f"the stream of {owner.name} reported the end of {id_} as events {sorted(numbers)}"


# -- fairness ------------------------------------------------------------------------------------------
WAITS = """
    SELECT u.username, percentile_cont(0.5) WITHIN GROUP (
        ORDER BY extract(epoch FROM coalesce(e.started_at, e.completed_at) - e.created_at)), count(*)
    FROM workflows_execution e JOIN accounts_user u ON u.id = e.user_id
    WHERE e.priority = 'normal' AND e.status = 'completed' GROUP BY 1
"""
CONTENDED_SECONDS, ENOUGH = 4.0, 20


def waits(cluster: Cluster) -> dict[str, float]:
    """username → median seconds from submission to start at normal priority, if there are enough samples."""
    return {name: float(median) for name, median, count in cluster.sql(WAITS) if count >= ENOUGH}


def _of_fairness(cluster: Cluster, ledger: Ledger) -> Iterator[str]:
    """Users with few executions at a time wait less than those with very many."""
    found = waits(cluster)
    greedy = {promise.owner.username for promise in ledger.promises if promise.owner.greedy}
    of_greedy = [seconds for name, seconds in found.items() if name in greedy]
    if not of_greedy or min(of_greedy) < CONTENDED_SECONDS:
        return  # the queue was never long enough
    for name, seconds in found.items():
        if name.startswith("client") and name not in greedy and seconds > 0.6 * min(of_greedy):
            yield f"{name} waited {seconds:.1f} s at the median, a greedy user {min(of_greedy):.1f} s"
