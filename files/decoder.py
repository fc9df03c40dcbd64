"""The process that decodes users' pictures and videos: `python -m files.decoder`, started by `decoding`.

Reads one request a line from stdin, as JSON: {"do": name, "seconds": limit, ...arguments}; writes one line
with {"result": …} for each. A decoder that crashes, or needs more than the limits, ends this process and
nothing else. It has no secrets: its environment is empty.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import pictures, videos

LARGEST_RESULT = 1024**3  # bytes written to a file


def _limit(*, memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_RESULT, LARGEST_RESULT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        # Where the machine itself runs out of memory, the kernel kills this process first.
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        pass  # not Linux


def _measure(path: str, content_type: str) -> dict[str, Any] | None:
    """Width, height and duration of a picture or video."""
    film = videos.about(Path(path), content_type)
    if film is not None:
        return asdict(film)
    size = pictures.size_of(Path(path))
    return {"width": size.width, "height": size.height, "duration": None} if size else None


OPERATIONS: dict[str, Callable[..., Any]] = {
    "measure": _measure,
    "texts": lambda path: pictures.texts(Path(path)),
    "as_png": lambda path, target: pictures.as_png(Path(path), Path(target)),
    "deep_as_png": lambda path, target: pictures.deep_as_png(Path(path), Path(target)),
    "with_alpha_of": lambda path, mask, target: pictures.with_alpha_of(Path(path), Path(mask), Path(target)),
    "thumbnail": lambda path, target, content_type: pictures.thumbnail(
        Path(path), Path(target), content_type=content_type
    ),
}


def main() -> None:
    _limit(memory=int(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        # The kernel kills us, whatever library is busy, and also when our parent has died.
        signal.setitimer(signal.ITIMER_REAL, request.pop("seconds"))
        result = OPERATIONS[request.pop("do")](**request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(json.dumps({"result": result}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
