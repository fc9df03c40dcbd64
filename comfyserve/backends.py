"""Names of backends (a backend is one ComfyUI process with the worker that serves it)."""

from __future__ import annotations

import hashlib
import re
import socket
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8188"
_ALLOWED = re.compile(r"[A-Za-z0-9._:-]{1,100}")


def backend_name(*, name: str, url: str, host: str | None = None) -> str:
    """`name` if given, else this machine's name with ComfyUI's address: unique in the fleet.

    The address alone would not do, since every machine may have its ComfyUI on 127.0.0.1:8188. The name
    is part of a queue's and a process's name, hence the letters: ValueError for others.
    """
    if name:
        if not _ALLOWED.fullmatch(name):
            raise ValueError(
                f"COMFYUI_NAME={name!r}: up to 100 letters, digits, dots, colons, dashes, underscores"
            )
        return name
    first = urlsplit(url.split(",")[0].strip())
    port = first.port or (443 if first.scheme == "https" else 80)
    address = f"{first.hostname or 'unknown'}:{port}"
    return _fitting(f"{host or socket.gethostname()}:{address}")


def own_comfyui_name(*, data_dir: str, shared_database: bool) -> str:
    """For the ComfyUI that script/serve and script/demo start, whose port differs each time.

    In a database shared by several checkouts, the folder makes it unique.
    """
    folder = f"-{hashlib.sha256(data_dir.encode()).hexdigest()[:6]}" if shared_database else ""
    return _fitting(f"{socket.gethostname()}:comfyui{folder}")


def _fitting(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._:-]", "-", name)[:100]
