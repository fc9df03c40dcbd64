"""A Caddy before ComfyUI's routes that adds a key: for clients that can send none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from script.local import ports
from script.local.processes import Process

# What docs/integrations.md shows, with the addresses of the tests.
ADDS_KEY = """
http://127.0.0.1:{port} {{
    rewrite * /c/{key}{{uri}}
    reverse_proxy {server}
}}
"""
# The same, with the files of ComfyUI's front end before it.
FRONT_END = """
http://127.0.0.1:{port} {{
    @api path /api/* /ws
    handle @api {{
        rewrite * /c/{key}{{uri}}
        reverse_proxy {server}
    }}
    handle {{
        root * {files}
        file_server
    }}
}}
"""


@contextmanager
def caddy(config: str, *, folder: Path, **places: object) -> Iterator[int]:
    """A Caddy with `config`, in which `places` and `port` are filled in; its port."""
    command = shutil.which("caddy")
    if command is None:
        pytest.skip("needs caddy (Debian: apt-get install caddy)")
    port, file = ports.free_port(), folder / "Caddyfile"
    file.write_text("{\n    admin off\n}\n" + config.format(port=port, **places))
    process = Process(
        "caddy", [command, "run", "--config", file, "--adapter", "caddyfile"],
        log=folder / "caddy.log", env={**os.environ, "HOME": str(folder)}, cwd=folder,
    ).start()  # fmt: skip
    try:
        process.wait_until(lambda: ports.answers("127.0.0.1", port), seconds=60)
        yield port
    finally:
        process.stop()
