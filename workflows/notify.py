"""What is published after a change: a wake-up for the GPU workers, a notification for live readers.

All of it may be lost without harm: workers poll the queue, readers read PostgreSQL. So nothing is retried or
waited for, and while Redis is unavailable it is skipped.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import redis
from django.conf import settings

from comfyserve import outages, tickets

from .delayed_tickets import DelayedTickets

WAKE_UP_SECONDS = 10  # after this long a wake-up is useless: workers have polled
MAX_WAKE_UPS = 100  # wake-ups kept for workers that become idle
LOOK_FOR_WORK = "workflows.tasks.look_for_work"
CHANNEL = "comfyserve:events"  # notifications for live streams, of all executions but new ones
DELIVER_WEBHOOKS = "workflows.tasks.deliver_webhooks"

_redis = redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=0.3, socket_timeout=1.0)


def ticket(worker: str | None = None) -> None:
    """Announce new work: to whichever GPU worker is idle, or to one by its backend's name.

    An idle worker blocks on this list and starts at once. If none does, a Celery message follows, which busy
    workers receive too: one may have room for a staged execution.
    """
    _wake([worker], [])


def submitted(owners: Mapping[UUID, int], *, workers: Sequence[str | None]) -> None:
    """Announce new executions, in one round trip: a ticket for each of `workers`, and to readers.

    `owners` maps execution ids to user ids. Only who follows all executions of a user can follow a new one:
    the message is not for every web process.
    """
    messages = [
        (submissions_channel(user_id), {**_status_message(id_), "user": user_id})
        for id_, user_id in owners.items()
    ]
    _wake(workers, messages)


def submissions_channel(user_id: int) -> str:
    return f"comfyserve:submissions:{user_id}"


def wake_key(queue: str) -> str:
    """The Redis list on which idle workers of this queue block."""
    return f"comfyserve:wake:{queue}"


def _wake(workers: Sequence[str | None], messages: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """BLPOP hands each item to exactly one waiting worker; items that no worker takes expire.

    Redis does that before the pipeline's next command and deletes empty lists: EXPIRE thus returns 0 if idle
    workers have taken all of the list. MULTI or a script would hide it.
    """
    queues = Counter(f"gpu.{worker}" if worker else "gpu" for worker in workers)

    def send() -> None:
        with _redis.pipeline(transaction=False) as pipe:
            for queue, count in queues.items():
                pipe.rpush(wake_key(queue), *[1] * count)
                pipe.expire(wake_key(queue), WAKE_UP_SECONDS)
            for channel, message in messages:
                pipe.publish(channel, _text(message))
            replies = pipe.execute()
        for queue, is_left in zip(queues, replies[1::2], strict=False):
            if is_left:
                _delayed_tickets.add(queue)

    _unless_unavailable(send, "wake-up")


def _send_unless_taken(queue: str) -> None:
    """Send a Celery message if no idle worker has taken the wake-up."""

    def send() -> None:
        with _redis.pipeline(transaction=False) as pipe:
            pipe.ltrim(wake_key(queue), -MAX_WAKE_UPS, -1)
            pipe.exists(wake_key(queue))
            _, is_left = pipe.execute()
        if is_left:
            tickets.send(LOOK_FOR_WORK, queue=queue)

    _unless_unavailable(send, "ticket")


_delayed_tickets = DelayedTickets(_send_unless_taken)


def wake_webhooks() -> None:
    """Announce that something is in the outbox."""
    _unless_unavailable(lambda: tickets.send(DELIVER_WEBHOOKS, queue="webhooks"), "ticket")


def announce_status(execution_id: UUID, *, ended: bool = False) -> None:
    """Tell readers of this execution that a new line was written, possibly the last."""
    _publish(_status_message(execution_id, ended=ended))


def _status_message(execution_id: UUID, *, ended: bool = False) -> dict[str, Any]:
    return {"type": "lines", "id": execution_id, "ended": ended}


def announce_end(execution_id: UUID, *, user_id: int, status: str, rows: str | None) -> None:
    """Tell readers that this execution of the user has ended, after the commit.

    The message is `{"type": "lines", "id", "ended": true, "user", "status", "rows"}`. `rows` is what
    `presentation.end_message.unpack` reads, or null: then readers read the result from PostgreSQL.
    """
    end = {"type": "lines", "id": execution_id, "ended": True, "user": user_id, "status": status}
    _publish({**end, "rows": rows})


def announce_progress(execution_id: UUID, columns: dict[str, Any], *, lines: bool) -> None:
    """Publish the progress; `lines` says that there are new lines as well."""
    _publish({"type": "progress", "id": execution_id, "lines": lines, "progress": columns})


def announce_preview(execution_id: UUID, preview: dict[str, Any]) -> None:
    """Only to subscribers to previews of this execution: an image is too large for everyone."""
    message = json.dumps({"type": "preview", "id": execution_id, "preview": preview}, default=str)
    _unless_unavailable(lambda: _redis.publish(preview_channel(execution_id), message), "preview")


def somebody_wants_previews(execution_id: UUID) -> bool:
    """Whether any stream with its previews is open. False while Redis is unavailable."""
    return _has_subscribers(preview_channel(execution_id))


def preview_channel(execution_id: UUID) -> str:
    return f"comfyserve:preview:{execution_id}"


def announce_comfyui_message(user_id: int, execution_id: UUID, message: dict[str, Any]) -> None:
    """Forward a message of the execution's ComfyUI to the user's websockets."""
    text = json.dumps({"type": "comfyui", "id": execution_id, "user": user_id, **message}, default=str)
    _unless_unavailable(lambda: _redis.publish(comfyui_channel(user_id), text), "ComfyUI message")


def somebody_wants_comfyui_messages(user_id: int) -> bool:
    """Whether the user has any websocket open. False while Redis is unavailable."""
    return _has_subscribers(comfyui_channel(user_id))


def comfyui_channel(user_id: int) -> str:
    return f"comfyserve:comfyui:{user_id}"


def _has_subscribers(channel: str) -> bool:
    found: list[int] = []
    _unless_unavailable(lambda: found.extend(count for _, count in _redis.pubsub_numsub(channel)), "question")
    return any(found)


def _publish(message: dict[str, Any]) -> None:
    _unless_unavailable(lambda: _redis.publish(CHANNEL, _text(message)), "event")


def _text(message: dict[str, Any]) -> str:
    return json.dumps(message, default=str)


def _unless_unavailable(send: Callable[[], Any], what: str) -> None:
    outages.redis.attempt(send, f"{what} not sent")
