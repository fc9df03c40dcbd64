"""The demo as a client of the API: register, log in, submit, follow, download. Uses HTTP only."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from script.local import demo_workflows
from script.local.console import UserError
from script.local.paths import data_dir

_PATIENCE_SECONDS = 600


class Painting:
    """One image: submitted, followed, saved. `times` has the duration of each step."""

    def __init__(
        self,
        url: str,
        comfyui_urls: list[str],
        *,
        seed: int,
        small_models: bool,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Submit as a new user. `small_models`: they are known to be installed.

        `check` raises UserError when a required process has exited.
        """
        self.times: dict[str, float] = {}
        self._check = check
        with self.timed("register, log in, submit"):
            self._session = _register(url)
            workflow = demo_workflows.landscape(seed=seed) if small_models else _workflow(comfyui_urls, seed)
            answer = _asked(self._session.post(f"{url}/workflows/execute", json={"workflow": workflow}))
        self._execution = f"{url}/workflows/{answer['execution_id']}"
        self.title = f"Execution {answer['execution_id']}, seed {seed}"

    def finish(self, *, pause: float) -> Path:
        """The saved image. `pause` is the polling interval in seconds."""
        with self.timed("wait and run"):
            print(f"\n{self.title}")
            _follow(self._session, self._execution, pause=pause, check=self._check)
        with self.timed("fetch the picture"):
            return _save(_asked(self._session.get(self._execution)))

    def give_up(self) -> None:
        """Cancel it: otherwise it would be the first execution after the next start."""
        with suppress(requests.RequestException):
            self._session.post(f"{self._execution}/cancel", timeout=2)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except requests.RequestException as error:
            self._check()  # which has a better explanation
            raise UserError(f"Could not {what}: {error}") from error
        self.times[what] = time.monotonic() - began


def _direct() -> requests.Session:
    """Bypasses the environment's proxies: none of them can reach this machine."""
    session = requests.Session()
    session.trust_env = False
    return session


def _register(url: str) -> requests.Session:
    session = _direct()
    name = f"demo-{secrets.token_hex(4)}"
    account = {"email": f"{name}@example.com", "username": name, "password": secrets.token_urlsafe(16)}
    _asked(session.post(f"{url}/auth/register", json=account))
    login = _asked(
        session.post(f"{url}/auth/login", json={key: account[key] for key in ("email", "password")})
    )
    session.headers["Authorization"] = f"Bearer {login['access_token']}"
    return session


def _workflow(comfyui_urls: list[str], seed: int) -> demo_workflows.Graph:
    """The landscape if the small models are installed, else an image with an available checkpoint."""
    checkpoints: set[str] = set()
    for url in comfyui_urls:
        try:
            checkpoints |= set(_direct().get(f"{url}/models/checkpoints", timeout=10).json())
        except (OSError, ValueError):
            continue
    if demo_workflows.TINY_CHECKPOINT in checkpoints:
        return demo_workflows.landscape(seed=seed)
    if not checkpoints:
        raise UserError(
            f"The ComfyUI at {', '.join(comfyui_urls)} has no checkpoint. Give it one,"
            " or run the demo without it: COMFYUI_URL=http://127.0.0.1:1 script/demo"
        )
    return demo_workflows.plain(checkpoint=min(checkpoints), seed=seed)


def _follow(session: requests.Session, execution: str, *, pause: float, check: Callable[[], None]) -> None:
    """A progress bar until the execution has ended. UserError if it did not complete."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description:<28}"), BarColumn(40), TaskProgressColumn(),
        TimeElapsedColumn(),
    )  # fmt: skip
    end = time.monotonic() + _PATIENCE_SECONDS
    with Progress(*columns, console=Console(file=sys.stdout)) as progress:
        bar = progress.add_task("waiting", total=100)
        while True:
            seen = _asked(session.get(f"{execution}/status"))
            progress.update(bar, completed=_percentage(seen), description=_description(seen))
            if seen["status"] == "completed":
                progress.update(bar, completed=100)
                return
            if seen["status"] in ("failed", "cancelled"):
                break
            if time.monotonic() > end:
                raise UserError(f"The execution did not end in {_PATIENCE_SECONDS} s: {seen}")
            check()
            time.sleep(pause)
    why = _asked(session.get(execution))["error"]
    raise UserError(f"The execution ended as {seen['status']}: {why}")


def _percentage(seen: dict[str, Any]) -> float:
    return float((seen.get("progress") or {}).get("percentage") or 0)


def _description(seen: dict[str, Any]) -> str:
    if seen["status"] == "pending":
        position = seen.get("queue_position")
        return f"waiting, {position} in the queue" if position else "waiting"
    return str((seen.get("progress") or {}).get("current_node") or seen["status"])


def _save(execution: dict[str, Any]) -> Path:
    image = execution["outputs"]["images"][0]
    answer = _direct().get(image["url"], timeout=60)  # a signed link needs no token
    answer.raise_for_status()
    folder = data_dir() / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    suffix = Path(image["filename"]).suffix or ".png"
    picture = folder / f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}{suffix}"
    picture.write_bytes(answer.content)
    return picture


def _asked(answer: requests.Response) -> Any:
    """The JSON of a successful response; UserError with the message of an error."""
    if not answer.ok:
        raise UserError(
            f"{answer.request.method} {answer.url} said {answer.status_code}: {answer.text[:500]}"
        )
    return answer.json()
