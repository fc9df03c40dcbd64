"""The worker's downloads: picking them up, reporting progress and results."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from django.db.models.functions import Now

from comfyserve.db import connections
from comfyui import Client

from . import downloads, fetching, kinds, reporting, verifying
from .models import Download, Host, ModelFile
from .queries import ACTIVE

logger = logging.getLogger(__name__)


class Downloader:
    """Downloads files for one host. Several threads may work, each with one download at a time."""

    def __init__(
        self, host: str, client: Client, *, stop: threading.Event, on_files: Callable[[], None]
    ) -> None:
        self._host = host
        self._client = client
        self._stop = stop
        self._on_files = on_files  # a model file was added
        self._lock = threading.Lock()
        self._busy: set[int] = set()  # being processed by a thread of this process

    def work(self) -> None:
        """Until no download is left that other threads are not processing; includes those of an earlier
        process."""
        while not self._stop.is_set():
            download = self._take()
            if download is None:
                return
            try:
                self._do(download)
            except verifying.Stopped:
                return
            finally:
                with self._lock:
                    self._busy.discard(download.pk)

    def _take(self) -> Download | None:
        with self._lock, connections.step():
            waiting = (
                downloads.under_way(self._host).exclude(pk__in=self._busy).select_related("model", "user")
            )
            download = waiting.first()
            if download is None or not self._note(download, state=Download.State.RUNNING):
                return None
            self._busy.add(download.pk)
            return download

    def _do(self, download: Download) -> None:
        model = download.model
        with connections.step():
            places = Host.objects.values_list("places", flat=True).get(name=self._host)
            with_tokens = downloads.may_use_tokens(download)
        folder = kinds.folder_of(model.type)
        try:
            fetched = fetching.fetch(
                download,
                name=model.name,
                folder=folder,
                places=places.get(folder, []),
                report=lambda done, total: self._report(download, done, total),
                stop=self._stop,
                with_tokens=with_tokens,
            )
            self._show(download, fetched)
        except fetching.Cancelled:
            logger.info("download of %s was cancelled", model)
        except fetching.Failed as failed:
            self._end(download, state=Download.State.FAILED, error=str(failed))
        except verifying.Stopped:
            raise
        except Exception:
            logger.exception("download of %s failed unexpectedly", model)
            self._end(download, state=Download.State.FAILED, error="Internal error")

    def _report(self, download: Download, done: int, total: int | None) -> bool:
        """Record progress. False: it was cancelled. While the database is unavailable the download
        continues."""
        try:
            with connections.step():
                return self._note(download, bytes_done=done, bytes_total=total)
        except connections.UNAVAILABLE as exc:
            logger.warning("progress of %s not recorded: %s", download, exc)
            return True

    @staticmethod
    def _note(download: Download, **columns: Any) -> bool:
        rows = Download.objects.filter(pk=download.pk, state__in=ACTIVE)
        return rows.update(**columns) == 1

    def _show(self, download: Download, fetched: fetching.Fetched) -> None:
        """Done once its ComfyUI lists the file. If cancelled at the last moment, it is kept."""

        def report() -> bool:
            if reporting.report_files(self._host, self._client):
                self._on_files()
            files = ModelFile.objects.filter(host_id=self._host, model_id=download.model_id)
            return bool(files.update(sha256=fetched.sha256))

        if connections.retry_until_available(report, stop=self._stop):
            size = fetched.path.stat().st_size
            self._end(download, state=Download.State.DONE, bytes_done=size, bytes_total=size)
        else:
            fetched.path.unlink(missing_ok=True)
            raise fetching.Failed(
                "The worker's ComfyUI does not see the file: it must be on its worker's machine, or share "
                "the folder of models with it under the same path"
            )

    def _end(self, download: Download, **columns: Any) -> None:
        connections.retry_until_available(
            lambda: self._note(download, **columns, ended_at=Now()), stop=self._stop
        )
