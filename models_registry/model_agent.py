"""Model management in a GPU worker, beside the executions.

Uses several threads, none of them the one that renews leases: for reports of files and memory; for commands,
which may wait for a running prompt; for reading headers and computing hashes; and for downloads. They work
only while this process owns the backend.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models.functions import Now

from comfyserve.db import connections
from comfyui import Client, Unreachable
from comfyui.bridge import NoBridge

from . import loading, reading, reporting
from .downloading import Downloader
from .models import Command, Download, Host

logger = logging.getLogger(__name__)

MEMORY_SECONDS = 5.0  # between memory reports
TIDY_SECONDS = 3600.0
KEPT = timedelta(days=7)  # finished commands and downloads, and silent hosts
OPEN = (Command.State.WAITING, Command.State.TAKEN)

current: ModelAgent | None = None  # the agent of this process, woken by tickets


class ModelAgent:
    def __init__(
        self,
        *,
        host: str,
        client: Client,
        active: Callable[[], bool],
        on_files: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_files` is called when model files were added or removed."""
        self._host = host
        self._on_files = on_files
        self._client = client
        self._active = active
        self._stop = threading.Event()
        self._report = threading.Event()
        self._files_due = 0.0
        self._tidy_due = 0.0
        downloader = Downloader(host, client, stop=self._stop, on_files=on_files)
        duties: list[tuple[str, Callable[[], None], threading.Event, float]] = [
            ("reports", self._do_report, self._report, MEMORY_SECONDS),
            ("commands", self._do_commands, threading.Event(), settings.LOOK_SECONDS),
            ("reading", self._read, threading.Event(), MEMORY_SECONDS),
        ]
        for n in range(settings.MODEL_DOWNLOADS_AT_ONCE):
            duties.append((f"download-{n}", downloader.work, threading.Event(), settings.LOOK_SECONDS))
        self._wakes = [wake for *_, wake, _ in duties]
        self._threads = [
            threading.Thread(target=self._run_duty, args=duty, name=f"models-{duty[0]}", daemon=True)
            for duty in duties
        ]

    def start(self) -> None:
        global current
        current = self
        for thread in self._threads:
            thread.start()

    def wake(self) -> None:
        """There may be a command or a download."""
        for wake in self._wakes:
            if wake is not self._report:
                wake.set()

    def report_soon(self) -> None:
        """ComfyUI was reconnected, or its files changed."""
        self._files_due = 0.0
        self._report.set()

    def stop(self) -> None:
        """Does not wait for long operations; open ones are taken over by the next worker."""
        self._stop.set()
        for wake in self._wakes:
            wake.set()
        for thread in self._threads:
            thread.join(timeout=5)

    # -- the loop of each thread -----------------------------------------------------------------------
    def _run_duty(self, name: str, do: Callable[[], None], wake: threading.Event, seconds: float) -> None:
        while not self._stop.is_set():
            try:
                if self._active():
                    do()
            except loading.Stopped:
                return
            except (Unreachable, NoBridge, *connections.UNAVAILABLE) as exc:
                logger.warning("models of %s, %s: %s", self._host, name, exc)
            except Exception:
                logger.exception("models of %s, %s: failed unexpectedly", self._host, name)
            if not self._stop.is_set():
                wake.wait(seconds)
            wake.clear()

    # -- reports ---------------------------------------------------------------------------------------
    def _do_report(self) -> None:
        with connections.step():
            reporting.report_memory(self._host, self._client)
        if time.monotonic() >= self._files_due:
            self._files_due = time.monotonic() + settings.MODEL_SCAN_SECONDS
            with connections.step():
                if reporting.report_files(self._host, self._client):
                    self._on_files()

        if time.monotonic() >= self._tidy_due:
            self._tidy_due = time.monotonic() + TIDY_SECONDS
            with connections.step():
                _forget_old()

    def _read(self) -> None:
        reading.read_some(self._host, self._client, stop=self._stop)

    # -- commands --------------------------------------------------------------------------------------
    def _do_commands(self) -> None:
        while not self._stop.is_set():
            with connections.step():
                command = (
                    Command.objects.filter(host_id=self._host, state__in=OPEN).order_by("created_at").first()
                )
                if command is not None:
                    Command.objects.filter(pk=command.pk).update(state=Command.State.TAKEN)
            if command is None:
                return
            self._answer(command)

    def _answer(self, command: Command) -> None:
        """Execute it and write the result. A command taken by a previous process is executed again."""
        try:
            end: dict[str, Any] = {"state": Command.State.DONE, "answer": self._carry_out(command)}
        except loading.Failed as failed:
            end = _failed(str(failed), failed.code)
        except Unreachable as exc:
            logger.warning("command %s: %s", command, exc)
            end = _failed("ComfyUI does not respond", "unavailable")
        except (loading.Stopped, *connections.UNAVAILABLE):
            raise
        except Exception:
            logger.exception("command %s failed", command)
            end = _failed("Internal error", "unavailable")
        connections.retry_until_available(
            lambda: Command.objects.filter(pk=command.pk).update(**end, ended_at=Now()), stop=self._stop
        )

    def _carry_out(self, command: Command) -> dict[str, Any]:
        host, client, stop = self._host, self._client, self._stop
        type_, name, given = command.type, command.name, command.arguments
        match command.kind:
            case Command.Kind.LOAD:
                prompt_id = str(command.pk)
                return loading.load(host, client, type_=type_, name=name, prompt_id=prompt_id, stop=stop)
            case Command.Kind.UNLOAD:
                return loading.unload(host, client, type_=type_, name=name, drop=given["drop"], stop=stop)
        return loading.cleanup(host, client, max_age_hours=given["max_age_hours"], stop=stop)


def _failed(message: str, code: str) -> dict[str, Any]:
    return {"state": Command.State.FAILED, "error": message, "answer": {"code": code}}


def _forget_old() -> None:
    Command.objects.filter(created_at__lt=Now() - KEPT).delete()
    Download.objects.filter(ended_at__lt=Now() - KEPT).delete()
    Host.objects.filter(reported_at__lt=Now() - KEPT).delete()
