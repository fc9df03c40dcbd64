"""Celery task entry points. Each is a thin wrapper of a function that works without Celery."""

from __future__ import annotations

import logging
from typing import Any

from celery import shared_task, signals
from django.conf import settings

from comfyserve import cleaning, logs
from comfyserve.db import connections, pooling
from models_registry.model_agent import ModelAgent
from workflows.delivery import sender as file_sender
from workflows.webhooks import dispatcher
from workflows.webhooks.deliverer import Deliverer
from workflows.worker import celery_tasks
from workflows.worker.backend import own
from workflows.worker.maintenance import Maintenance
from workflows.worker.slots import Slots
from workflows.worker.sweeps import Sweeper
from workflows.worker.wake import WakeListener

from . import cleaning as removing
from . import notify, task_events
from .fleet import registry
from .queue import matching

logger = logging.getLogger(__name__)


class GpuWorker:
    """What a Celery process serving the queue `gpu` runs besides tasks."""

    def __init__(self) -> None:
        self.slots = Slots(own())
        logs.bind_process(worker=self.slots.backend.name)
        backend = self.slots.backend
        self.keeper = ModelAgent(
            host=backend.name,
            client=backend.client,
            active=lambda: self.slots.claiming and backend.reachable,
            on_files=lambda: matching.has_more(backend.name),
        )
        self.maintenance = Maintenance(self.slots, on_connect=self.keeper.report_soon)
        self.sweeper = Sweeper()
        self.wake = WakeListener(self.slots)
        self.keeper.start()
        self.maintenance.start()
        self.sweeper.start()
        self.wake.start()

    def stop(self) -> None:
        """On the signal: release staged executions at once, give the running one DRAIN_SECONDS."""
        self.wake.stop()
        self.slots.stop(drain_seconds=settings.DRAIN_SECONDS)

    def close(self) -> None:
        """After Celery's own tasks have ended: wait for the rest, then release the backend."""
        self.slots.wait_empty(timeout=settings.DRAIN_SECONDS + 10)
        self.keeper.stop()
        self.sweeper.stop()
        self.maintenance.stop()
        self.slots.backend.close()


_gpu: GpuWorker | None = None
_deliverers: list[Deliverer] = []


# No late acknowledgement at the end of a run: if Redis has become unavailable meanwhile, it fails and Celery
# exits. A message may be lost. It sends no events: in Flower, the execution itself is the task.
@shared_task(name=notify.LOOK_FOR_WORK, acks_late=False, send_events=False, bind=True)
def look_for_work(self: Any) -> None:
    """New work. A worker that is busy or may not claim passes the message on to an idle one."""
    celery_tasks.hide(self.request.id)
    if _gpu is None:
        logger.error(
            "a ticket came to a worker that serves no GPU; give it the queue 'gpu' only with script/worker"
        )
        return
    if not (_gpu.slots.idle and _gpu.slots.may_claim):
        _hand_on(name=_gpu.slots.backend.name)
    _gpu.slots.serve()


def _hand_on(*, name: str) -> None:
    try:
        with connections.step():
            idle = registry.idle_others(name=name)
    except connections.UNAVAILABLE as exc:
        logger.warning("the ticket is not passed on, the database is unavailable: %s", exc)
        return
    for other in idle[:1]:
        notify.ticket(other)


@shared_task(name=notify.DELIVER_WEBHOOKS, send_events=False)
def deliver_webhooks() -> None:
    """Something is in the outbox, or a file is to be delivered."""
    for deliverer in _deliverers:
        deliverer.wake()


@shared_task(name="workflows.tasks.clean")
def clean() -> None:
    """Called by beat; nothing depends on it being called."""
    cleaning.run(removing.clean)


@signals.worker_init.connect
def _prepare(**_: Any) -> None:
    celery_tasks.disable_commands()


# Not `worker_ready`, which waits for the broker: work is found without it.
@signals.celeryd_after_setup.connect
def _start(sender: str, instance: Any, **_: Any) -> None:
    global _gpu
    queues = instance.app.amqp.queues.consume_from
    if "gpu" in queues:
        task_events.serve_as(worker=settings.BACKEND_NAME, hostname=sender)
        _gpu = GpuWorker()  # refuses to work if a pooler shares its sessions
    else:
        pooling.report()
    if "webhooks" in queues:
        _deliverers.extend(
            [
                Deliverer(
                    "webhook", senders=dispatcher.SENDERS, take=dispatcher.take, deliver=dispatcher.deliver
                ),
                Deliverer(
                    "file", senders=file_sender.SENDERS, take=file_sender.take, deliver=file_sender.deliver
                ),
            ]
        )
        for deliverer in _deliverers:
            deliverer.start()


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    for deliverer in _deliverers:
        deliverer.stop()
    if _gpu is not None:
        _gpu.stop()


@signals.worker_shutdown.connect
def _close(**_: Any) -> None:
    for deliverer in _deliverers:
        deliverer.close()
    if _gpu is not None:
        _gpu.close()
    task_events.close()
