"""How each of our processes is started, in one place: for script/serve, script/run, and so compose.yaml.

Workers are in `worker.py`, ComfyUI in `comfyui.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

FLOWER_PREFIX = "flower"  # the path it is served under, behind a proxy and without one


# Longer than clients and proxies keep an idle connection: a request that is sent just while we close it
# fails, and nobody may repeat a POST. uvicorn's default is 5 s.
KEEP_ALIVE_SECONDS = 75
# uvicorn's options for every web process, those of tests included. Only TRUSTED_PROXY_HOPS and HTTPS decide
# which proxy headers are trusted. Websockets are ComfyUI's `/ws`: clients send little, and image frames do
# not compress.
WEB_OPTIONS = (
    "--no-access-log", "--no-proxy-headers",
    "--http", "comfyserve.api.gate.protocol:Protocol",
    "--ws", "comfyserve.api.gate.websocket_protocol:WebsocketProtocol",
    "--ws-max-size", "65536", "--ws-per-message-deflate", "false",
    "--timeout-keep-alive", str(KEEP_ALIVE_SECONDS),
)  # fmt: skip


def web(*, host: str, port: int) -> list[str | Path]:
    return [
        sys.executable, "-m", "uvicorn", "comfyserve.asgi:application", "--host", host, "--port", str(port),
        "--timeout-graceful-shutdown", "10", *WEB_OPTIONS,
    ]  # fmt: skip


def beat(*, schedule: Path) -> list[str | Path]:
    """`schedule` is the file in which it records what it has started."""
    return [
        sys.executable, "-m", "comfyserve.beat", "--schedule", schedule, "--pidfile", "", "-l", "INFO",
    ]  # fmt: skip


def flower(*, host: str, port: int, state: Path) -> list[str | Path]:
    """It reads its credentials from FLOWER_BASIC_AUTH, and serves `/flower/` only.

    `state` is the file in which it stores what it has received.
    """
    state.parent.mkdir(parents=True, exist_ok=True)
    return [
        sys.executable, "-m", "workflows.flower",
        f"--address={host}", f"--port={port}", f"--url_prefix={FLOWER_PREFIX}",
        "--persistent=true", f"--db={state}", "--state_save_interval=60000", "--max_tasks=20000",
        "--tasks_columns=uuid,state,kwargs,worker,runtime,started,name",
    ]  # fmt: skip
