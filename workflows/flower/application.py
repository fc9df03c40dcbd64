"""Flower's web application, with our handlers taking precedence over its own."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode
from typing import Any
from uuid import UUID

from django.db import transaction
from flower.api.control import ControlHandler
from flower.api.tasks import GetQueueLengths
from flower.app import Flower, rewrite_handler
from flower.views.broker import BrokerView
from flower.views.monitor import Metrics
from flower.views.tasks import TaskView
from tornado import web
from tornado.httputil import HTTPHeaders
from tornado.ioloop import IOLoop

from accounts import audit
from comfyserve.api.errors import Conflict, NotFound
from comfyserve.db import connections
from workflows import task_events
from workflows.presentation import selectors
from workflows.queue import commands

from .queues import NAMES, Queues
from .state import ExecutionsEvents

logger = logging.getLogger(__name__)

OFF = (
    "Flower cancels executions and nothing else: pause and drain workers in the console, stop them by signal"
)
# The revoke button in Flower's task template.
ACTIONS = b'<div class="detail-actions">'
REVOKE_BUTTON = b'<button class="btn btn-danger" id="task-revoke">Revoke</button>'


class Application(Flower):
    def __init__(self, *, options: Any, capp: Any, **settings: Any) -> None:
        events = ExecutionsEvents(
            capp,
            db=options.db,
            persistent=options.persistent,
            state_save_interval=options.state_save_interval,
            enable_events=options.enable_events,
            io_loop=IOLoop.current(),
            max_workers_in_memory=options.max_workers,
            max_tasks_in_memory=options.max_tasks,
        )
        super().__init__(options=options, capp=capp, events=events, io_loop=IOLoop.current(), **settings)
        ours = [
            (r"/broker", Broker),
            (r"/metrics", ProtectedMetrics),
            (r"/api/queues/length", QueueLengths),
            (r"/task/(.+)", Task),
            (r"/api/task/revoke/(.+)", Revoke),
            (r"/api/worker/(?:shutdown|pool|queue)/.+", SwitchedOff),
            (r"/api/task/(?:apply|async-apply|send-task|abort|timeout|rate-limit)/.+", SwitchedOff),
        ]
        self.add_transform(NotFramed)
        self.add_handlers(r".*", [rewrite_handler(handler, options.url_prefix or "") for handler in ours])


class NotFramed(web.OutputTransform):
    """A page of another site may not show Flower in a frame, where its buttons could be clicked unseen."""

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        headers["X-Frame-Options"] = "DENY"
        headers["Content-Security-Policy"] = "frame-ancestors 'none'"
        headers["Referrer-Policy"] = "same-origin"
        return super().transform_first_chunk(status_code, headers, chunk, finishing)


class OurQueues:
    """Mixin: all our queues, including those that no worker serves now, with their lengths."""

    def get_broker(self) -> Queues:
        return Queues(super().get_broker())  # type: ignore[misc]

    def get_active_queue_names(self) -> list[str]:
        return list(NAMES)


class Broker(OurQueues, BrokerView):
    pass


class ProtectedMetrics(Metrics):
    """Flower's own handler requires no password."""

    @web.authenticated
    async def get(self) -> None:
        await super().get()


class QueueLengths(OurQueues, GetQueueLengths):
    pass


class Task(TaskView):
    """Executions can be cancelled here until they have ended; other tasks offer no actions."""

    def render(self, template: str, **values: Any) -> None:
        values["read_only"] = values["task"].name != task_events.TASK
        self._cancellable = not values["read_only"] and values["task"].state == "PENDING"
        super().render(template, **values)

    def render_string(self, template: str, **values: Any) -> bytes:
        """Flower shows a button for tasks that a worker has received; ours can be cancelled earlier."""
        page: bytes = super().render_string(template, **values)
        return page.replace(ACTIONS, ACTIONS + REVOKE_BUTTON) if self._cancellable else page


class Revoke(ControlHandler):
    """Revoke and Terminate both cancel the execution, whether it waits or runs."""

    @web.authenticated
    async def post(self, task_id: str) -> None:
        who = f"{self._user()} from {self.request.remote_ip}"
        try:
            await asyncio.get_running_loop().run_in_executor(None, _cancel, task_id, who)
        except (NotFound, Conflict) as exc:
            raise web.HTTPError(exc.status, exc.message) from exc
        except connections.UNAVAILABLE as exc:
            raise web.HTTPError(503, "The database is not available; try again shortly") from exc
        logger.info("%s cancelled execution %s", who, task_id)
        self.write({"message": f"Cancelled execution '{task_id}'"})

    def _user(self) -> str:
        """The user name from the password or from Flower's OAuth."""
        if isinstance(self.current_user, str):
            return self.current_user
        _, _, encoded = self.request.headers.get("Authorization", "").partition(" ")
        return b64decode(encoded).decode().partition(":")[0] or "somebody"


class SwitchedOff(ControlHandler):
    @web.authenticated
    async def post(self) -> None:
        raise web.HTTPError(403, OFF)


def _cancel(execution_id: str, who: str) -> None:
    """Cancel it, with a row in the audit log. Raises NotFound and Conflict."""
    with connections.step(), transaction.atomic():
        try:
            execution = selectors.by_id(UUID(execution_id))
        except ValueError:
            execution = None
        if execution is None:
            raise NotFound(f"There is no execution {execution_id[:100]}. {OFF}")
        commands.cancel(execution=execution, by="an operator")
        audit.record("execution.cancel", on=execution, note=f"in Flower, by {who}")
