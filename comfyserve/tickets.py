"""Short messages to Celery workers from code that must not block: requests, and threads that hold leases."""

from __future__ import annotations

from django.conf import settings
from kombu import Connection
from kombu.pools import producers

from .celery import app


def connection_to(url: str) -> Connection:
    """Unlike the workers' connections, it never blocks and tries once."""
    once = {"max_retries": 0, "interval_start": 0, "interval_step": 0, "socket_timeout": 1.0}
    return Connection(url, transport_options=settings.CELERY_BROKER_TRANSPORT_OPTIONS | once)


MAX_WAITING = 100  # tickets per queue; more would add nothing
KEPT_SECONDS = 60  # lifetime of a ticket that no worker takes; workers poll anyway

_connection = connection_to(settings.CELERY_BROKER_URL)


def send(task: str, *, queue: str) -> None:
    """Raises `outages.REDIS`, within a second or so, if Redis is unavailable.

    Tickets that no worker takes do not accumulate: a queue has at most MAX_WAITING, and expires after the
    last one.
    """
    with producers[_connection].acquire(block=True, timeout=1.0) as producer:
        redis = producer.channel.client
        if redis.llen(queue) >= MAX_WAITING:
            return
        app.send_task(task, queue=queue, retry=False, producer=producer, expires=KEPT_SECONDS)
        redis.expire(queue, KEPT_SECONDS)
