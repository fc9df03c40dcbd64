"""One download, executed by the worker: into a hidden file in the right folder, resumed, verified, renamed.

Only a valid file with the right checksum gets the name by which ComfyUI finds it (`part_file` has the partial
one, `verifying` the checks).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from comfyserve import outages
from comfyserve.outbound import client

from . import source_headers, verifying
from .models import Download
from .part_file import Part, open_part

logger = logging.getLogger(__name__)

TRIES = 5  # consecutive attempts without progress
FIRST_DELAY, LONGEST_DELAY = 0.5, 20.0  # seconds
WHOLE_SECONDS = 24 * 3600.0  # for one connection
REPORT_SECONDS = 0.5  # between progress updates
JOIN_SECONDS = 60.0  # for the last one of the thread that reports: more than a statement may take


class Failed(Exception):
    """A permanent failure; the text is for the user."""


class Cancelled(Exception):
    pass


class _Again(Exception):
    """The connection was lost or the source had a temporary error: worth a retry."""


ReportProgress = Callable[[int, int | None], bool]  # (bytes so far, total bytes) -> False: it was cancelled


@dataclass(frozen=True)
class Fetched:
    path: Path
    sha256: str


def fetch(
    download: Download,
    *,
    name: str,
    folder: str,
    places: list[str],
    report: ReportProgress,
    stop: threading.Event,
    with_tokens: bool,
) -> Fetched:
    """`with_tokens`: send the operator's tokens to their hosts.

    Returns when the file is in place. Raises Failed or Cancelled (partial files are removed), or
    verifying.Stopped.
    """
    place = _place(folder, places)
    target = place / name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_part(target, stop) as part, _dropped_on_failure(part):
            digest = _get_into(part, target, download, report=report, stop=stop, with_tokens=with_tokens)
    except (Failed, Cancelled):
        _drop_empty_parents(place, target)
        raise
    except OSError as exc:
        _drop_empty_parents(place, target)
        raise Failed(_disk_trouble(exc)) from exc
    return Fetched(target, digest)


@contextmanager
def _dropped_on_failure(part: Part) -> Iterator[None]:
    """A failed download is deleted; a stopped one is kept."""
    try:
        yield
    except verifying.Stopped:
        raise
    except verifying.Unsound as exc:
        part.drop()
        raise Failed(str(exc)) from exc
    except BaseException:
        part.drop()
        raise


def _get_into(
    part: Part,
    target: Path,
    download: Download,
    *,
    report: ReportProgress,
    stop: threading.Event,
    with_tokens: bool,
) -> str:
    """Fetch, verify, publish; the SHA-256."""
    if target.exists():  # another worker of this machine was faster
        part.drop()
        return verifying.check_sum(target, expected=download.sha256, stop=stop)
    announced = _Fetch(download, part, report, stop, with_tokens=with_tokens).run()
    digest = verifying.check(part.path, name=target.name, expected=download.sha256 or announced, stop=stop)
    part.publish(target)
    return digest


# -- folder --------------------------------------------------------------------------------------------
def _place(folder: str, places: list[str]) -> Path:
    """The ComfyUI directory for new files of this folder."""
    here = [Path(place) for place in places if Path(place).is_dir() and os.access(place, os.W_OK)]
    if not here:
        raise Failed(
            f"The worker cannot write into its ComfyUI's folder for {folder}: it must be on the same "
            "machine, or have the folder mounted under the same path"
        )
    # ComfyUI lists folders of older names first (unet before diffusion_models).
    return min(here, key=lambda place: place.name != folder)


def _drop_empty_parents(place: Path, target: Path) -> None:
    for parent in target.parents:
        if parent == place or not parent.is_relative_to(place):
            return
        try:
            parent.rmdir()
        except OSError:
            return  # not empty


def _disk_trouble(exc: OSError) -> str:
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full"
    return f"The file could not be written: {exc.strerror}"


class _Fetch:
    def __init__(
        self,
        download: Download,
        part: Part,
        report: ReportProgress,
        stop: threading.Event,
        *,
        with_tokens: bool,
    ) -> None:
        self._credentials = source_headers.credentials(download.url) if with_tokens else {}
        self._url = download.url
        self._part = part
        self._report = report
        self._stop = stop
        self._total: int | None = None
        self._looked_at = 0.0
        self._cancelled = False
        self._unwanted = threading.Event()  # cancelled, or the worker stops
        self._cancellation = client.Cancellation()
        self._sum = ""

    def run(self) -> str:
        """Until all bytes have arrived. The SHA-256 that the source announces, or ""."""
        with self._reporting():
            self._try_until_done()
        self._report_now()
        return self._sum

    def _try_until_done(self) -> None:
        tries, backoff = 0, outages.Backoff(FIRST_DELAY, LONGEST_DELAY)
        while True:
            before = self._part.size
            try:
                return self._once()
            except (_Again, client.Unreachable, client.TookTooLong) as exc:
                self._check_signals()
                if self._part.size > before:
                    tries = 0
                    backoff.reset()
                tries += 1
                logger.info("download into %s: %s; attempt %d", self._part.path, exc, tries)
                if tries >= TRIES:
                    raise Failed(f"The download failed: {exc}") from exc
            except client.OutboundError as exc:
                raise Failed(exc.message) from exc
            self._unwanted.wait(backoff.next())
            self._check_signals()

    def _once(self) -> None:
        validator = self._part.resumable(self._url)
        headers = dict(self._credentials)
        if validator:
            headers |= {"Range": f"bytes={self._part.size}-", "If-Range": validator}
        with client.get(
            self._url,
            max_bytes=settings.MODEL_DOWNLOAD_MAX_BYTES,
            timeout=WHOLE_SECONDS,
            idle=settings.MODEL_STALL_SECONDS,
            headers=headers,
            cancellation=self._cancellation,
        ) as answer:
            self._sum = source_headers.announced_sha256(answer)
            if not self._accept(answer):
                return
            for chunk in answer.chunks():
                self._part.append(chunk)
                self._look_around()
        if self._total is not None and self._part.size < self._total:
            raise _Again("the connection ended before the file did")

    def _accept(self, answer: client.Answer) -> bool:
        """Prepare for the bytes of this response. False: all of them are present already."""
        match answer.status:
            case 206:
                start, self._total = source_headers.range_of(answer)
                if start != self._part.size:
                    self._part.begin(self._url, None)
                    raise _Again("the source continued at another offset")
            case 200:
                self._refuse_pages(answer)
                self._total = source_headers.length_of(answer)
                self._part.begin(self._url, source_headers.validator_of(answer))
            case 416:
                _, self._total = source_headers.range_of(answer)
                if self._total == self._part.size:
                    return False
                self._part.begin(self._url, None)
                raise _Again("the source's file has changed")
            case _:
                raise _refusal(answer.status)
        self._check_room()
        return True

    @staticmethod
    def _refuse_pages(answer: client.Answer) -> None:
        if answer.headers.get("Content-Type", "").lower().startswith("text/html"):
            raise Failed(verifying.WEB_PAGE)

    # -- periodic work ---------------------------------------------------------------------------------
    def _look_around(self) -> None:
        self._check_signals()
        if time.monotonic() - self._looked_at > REPORT_SECONDS:
            self._looked_at = time.monotonic()
            self._check_room()

    def _check_signals(self) -> None:
        if self._cancelled:
            raise Cancelled
        if self._stop.is_set():
            raise verifying.Stopped

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Progress is reported from a separate thread: a source that stalls must not delay progress or
        cancellation."""
        over = threading.Event()

        def report() -> None:
            while not over.wait(REPORT_SECONDS):
                self._cancelled |= not self._report(self._part.size, self._total)
                if self._cancelled or self._stop.is_set():
                    self._unwanted.set()
                    self._cancellation.cancel()

        thread = threading.Thread(target=report, name="download-progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=JOIN_SECONDS)

    def _report_now(self) -> None:
        if not self._report(self._part.size, self._total):
            raise Cancelled

    def _check_room(self) -> None:
        size = self._part.size
        if max(size, self._total or 0) > settings.MODEL_DOWNLOAD_MAX_BYTES:
            raise Failed(f"The file is larger than {settings.MODEL_DOWNLOAD_MAX_BYTES} bytes")
        free = shutil.disk_usage(self._part.path.parent).free
        missing = max(0, (self._total or 0) - size)
        if free - missing < settings.MODEL_DISK_RESERVE_BYTES:
            raise Failed(
                f"There is not enough room on the disk: {free} bytes are free, {missing} are to come, and "
                f"{settings.MODEL_DISK_RESERVE_BYTES} are to stay free"
            )


def _refusal(status: int) -> Exception:
    if status in (401, 403):
        return Failed(f"The source refuses ({status}): it may need a token, or its terms must be accepted")
    if status in (404, 410):
        return Failed(f"The source has no such file ({status})")
    if client.is_worth_a_retry(status):
        return _Again(f"the source responded with {status}")
    return Failed(f"The source responded with {status}")
