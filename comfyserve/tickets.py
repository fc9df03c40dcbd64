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


WAITING_MOST = 100  # tickets of a queue; more would say nothing more
KEPT_SECONDS = 60  # a ticket that nobody took; workers look by themselves anyway

_connection = connection_to(settings.CELERY_BROKER_URL)


def send(task: str, *, queue: str) -> None:
    """Raises `outages.REDIS`, within a second or so, if Redis is unavailable.

    While no worker takes them, tickets neither pile up nor stay: enough of them are enough, and the list
    expires after the last.
    """
    with producers[_connection].acquire(block=True, timeout=1.0) as producer:
        redis = producer.channel.client
        if redis.llen(queue) >= WAITING_MOST:
            return
        app.send_task(task, queue=queue, retry=False, producer=producer, expires=KEPT_SECONDS)
        redis.expire(queue, KEPT_SECONDS)
