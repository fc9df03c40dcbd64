"""Flower's in-memory state of events, corrected where executions differ from Celery's tasks."""

from __future__ import annotations

from typing import Any

from flower.events import Events, EventsState

from workflows import task_events


class ExecutionsState(EventsState):
    def event(self, event: dict[str, Any]) -> None:
        if not event["type"].startswith("task-"):
            super().event(event)
            return
        if event["type"] == "task-retried":
            self._retried(event)
            return
        known = self.tasks.get(event["uuid"])
        refused = known is not None and event["type"] == "task-failed" and not _has_started(known)
        super().event(event)
        if refused:
            self._not_prefetched(event)
        if event["hostname"] == task_events.QUEUE_NODE:
            self._without_worker(event["uuid"])

    def _retried(self, event: dict[str, Any]) -> None:
        known = self.tasks.get(event["uuid"])
        if known is None or not known.timestamp or event["timestamp"] >= known.timestamp:
            super().event(event)
        # Otherwise another worker has claimed it, and its events arrived first.
        if not event.get("begun", True):
            # It was only staged there: a worker has processed only what it ran.
            self.counter[event["hostname"]]["task-received"] -= 1
            self._not_prefetched(event)

    def _not_prefetched(self, event: dict[str, Any]) -> None:
        """Flower decrements this when a task starts, which did not happen here."""
        self.metrics.number_of_prefetched_tasks.labels(event["hostname"], event["name"]).dec()

    def _without_worker(self, uuid: str) -> None:
        """It ended in the queue: Celery's events must name a worker, but there is none."""
        task = self.tasks[uuid]
        task.worker = None
        self.workers.pop(task_events.QUEUE_NODE, None)
        self.counter.pop(task_events.QUEUE_NODE, None)
        self.search_engine.upsert(task)


def _has_started(task: Any) -> bool:
    """Whether it started after it was last received by a worker."""
    return not task.received or bool(task.started and task.started >= task.received)


class ExecutionsEvents(Events):
    """Flower's receiver, with our state, whether restored or new."""

    def __init__(self, *args: Any, max_tasks_in_memory: int, **kwargs: Any) -> None:
        super().__init__(*args, max_tasks_in_memory=max_tasks_in_memory, **kwargs)
        restored: object = self.state
        if not isinstance(restored, ExecutionsState):
            self.state: ExecutionsState = ExecutionsState(
                max_tasks_in_memory=max_tasks_in_memory,
                max_workers_in_memory=kwargs["max_workers_in_memory"],
            )
