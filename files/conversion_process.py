"""The inside of `sandbox`: a request on stdin, limits on this process, the answer on stdout."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

NICENESS = 10  # work for a GPU or a request takes precedence
OPEN_FILES = 64


def limit(request: dict[str, Any]) -> None:
    """Called before the file is read. Child processes inherit the limits."""
    seconds = int(request["seconds"]) + 1
    for what, most in (
        (resource.RLIMIT_AS, int(request["memory"])),
        (resource.RLIMIT_CPU, seconds * (os.cpu_count() or 1)),
        (resource.RLIMIT_FSIZE, int(request["bytes"])),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    os.nice(NICENESS)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    from . import conversion, pictures, videos
    from .conversion_errors import CannotConvert

    source, target = Path(request["source"]), Path(request["target"])
    try:
        made = conversion.convert(
            source, target, conversion.ConversionOptions(**request["wanted"]), request["content_type"]
        )
    except CannotConvert as exc:
        return {"error": str(exc)}
    except MemoryError:
        return {"error": "The conversion takes too much memory"}
    film = videos.about(target, made)
    size = film or pictures.size_of(target)
    return {
        "content_type": made,
        "width": size.width if size else None,
        "height": size.height if size else None,
        "duration_seconds": film.duration if film else None,
    }


def main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    limit(request)
    sys.stdout.write(json.dumps(answer(request)))


if __name__ == "__main__":
    main()
