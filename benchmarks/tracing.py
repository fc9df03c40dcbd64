"""Records when the steps of an execution begin and end, in every process of the service.

A Django app for `benchmarks.traced_settings`: it wraps the functions of STEPS, and PostgreSQL's statements, and
appends a line of JSON for each call to a file of its process in the folder that TRACE_DIR names. Times are of
CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from django.apps import AppConfig

STEPS = {
    "request in Django": "comfyserve.api.gate.threads:DjangoThreads.respond",
    "authentication": "accounts.authentication:BearerAuthentication.authenticate",
    "rate limits": "comfyserve.api.rate_limits:count",
    "prepare": "workflows.queue.submission:prepare",
    "submit": "workflows.queue.submission:submit",
    "submission's transaction": "workflows.queue.submission:submit_works",
    "wake the worker": "workflows.notify:submitted",
    "task event": "workflows.task_events:Publisher._send",
    "claim": "workflows.queue.claims:take",
    "slot is busy": "workflows.worker.slots:Slots._run",
    "mark as submitted": "workflows.queue.claims:mark_submitted",
    "POST /prompt": "comfyui.client:Client.submit",
    "follow": "workflows.worker.runner:Runner._follow",
    "GET /history": "comfyui.client:Client.history",
    "begin": "workflows.queue.state_machine:begin",
    "conclude": "workflows.worker.finalize:conclude",
    "collect outputs": "workflows.worker.output_collection:collect",
    "store a file": "files.storing:store",
    "finish": "workflows.queue.state_machine:finish",
    "announce the end": "workflows.notify:announce_end",
    "read the result": "workflows.streaming.broadcaster:Broadcaster.reads",  # only if the message had no rows
    "render the result": "workflows.api.result_bodies:ResultBody.from_rows",
    "wait for the end": "workflows.streaming.asgi:Streams._wait",
    "set idle": "workflows.worker.slots:Slots._report_idle",
    "correct the order": "workflows.worker.slots:Slots._settle",
    "clear ComfyUI": "workflows.worker.cleanup:Leftovers.delete",
    "thumbnails": "workflows.worker.finalize:make_thumbnails",
}


class Tracing(AppConfig):
    name = "benchmarks"
    label = "benchmarks"

    def ready(self) -> None:
        folder = os.environ.get("TRACE_DIR")
        if folder:
            recorder = _Recorder(Path(folder) / f"{os.getpid()}.jsonl")
            for label, where in STEPS.items():
                _wrap(label, where, recorder)
            psycopg.Cursor.execute = _timed_sql(psycopg.Cursor.execute, recorder)  # type: ignore[method-assign]


class _Recorder:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._lock = threading.Lock()

    def add(self, label: str, began: float, ended: float) -> None:
        entry = {"label": label, "began": began, "ended": ended, "thread": threading.current_thread().name}
        line = json.dumps(entry) + "\n"
        with self._lock:
            self._file.write(line)


def _wrap(label: str, where: str, recorder: _Recorder) -> None:
    module, _, path = where.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        function = inspect.getattr_static(owner, name)
    except (ImportError, AttributeError) as exc:
        print(f"not traced: {label}: {exc}")
        return
    if isinstance(function, staticmethod):
        setattr(owner, name, staticmethod(_timed(label, function.__func__, recorder)))
    else:
        setattr(owner, name, _timed(label, function, recorder))


def _timed(label: str, function: Callable[..., Any], recorder: _Recorder) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def timed_coroutine(*args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return await function(*args, **kwargs)
            finally:
                recorder.add(label, began, time.monotonic())

        return timed_coroutine

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            recorder.add(label, began, time.monotonic())

    return timed


def _timed_sql(execute: Callable[..., Any], recorder: _Recorder) -> Callable[..., Any]:
    @functools.wraps(execute)
    def timed(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        try:
            return execute(self, query, *args, **kwargs)
        finally:
            text = " ".join(str(query).split())
            recorder.add(f"SQL {text[:90]}", began, time.monotonic())

    return timed
