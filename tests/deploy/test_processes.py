"""compose.yaml in action: all of its services together, from the proxy to a picture in the bucket."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
import requests
from PIL import Image

from script.harness import graphs
from script.harness.sse import EventStream, follow
from script.harness.waiting import wait_for
from script.local import postgres
from tests.deploy import compose
from tests.deploy.deployment import PASSWORD

OPERATOR = ("operator", PASSWORD)


@pytest.fixture(scope="module")
def alice(deployment):
    return deployment.person()


def test_all_services_run(deployment):
    chosen = {
        name
        for name, service in compose.ours(deployment.services).items()
        if "cpu" in service.get("profiles", ["cpu"])
    }
    assert chosen == set(deployment.processes) - {"proxy"}
    alive = {name for name, process in deployment.processes.items() if process.alive}
    assert alive == {"proxy", "api", "gpu-worker", "worker", "beat", "flower"}


def test_a_workflow_becomes_an_image_that_its_link_serves_to_anyone(deployment, alice):
    """Events come while the answer is still open, so the proxy holds nothing back."""
    with EventStream(
        f"{deployment.url}/workflows/events",
        headers={"Authorization": alice.session.headers["Authorization"], "Accept": "text/event-stream"},
    ) as stream:
        execution = alice.execute(graphs.colour(0x123456))
        stream.until("status", status="completed", execution_id=execution)
    [picture] = alice.get(f"/workflows/{execution}").json()["outputs"]["images"]
    assert picture["url"].startswith(f"{deployment.url}/comfyserve-files/")
    answer = requests.get(picture["url"], timeout=10)
    assert answer.status_code == 200
    assert Image.open(BytesIO(answer.content)).getpixel((3, 3)) == (0x12, 0x34, 0x56)
    unsigned = requests.get(picture["url"].partition("?")[0], timeout=10)
    assert unsigned.status_code == 403
    assert (
        requests.put(picture["url"], data=b"x", timeout=10).status_code == 404
    )  # the proxy lets it not through


def test_an_upload_arrives_while_it_is_sent(deployment, alice):
    incoming = deployment.folder / "data" / "incoming"
    arrived = threading.Event()

    def body():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n' + bytes(
            4_000_000
        )
        wait_for(
            lambda: any(path.stat().st_size for path in incoming.glob("*")),
            seconds=60,
            what="the first part on disk",
        )
        arrived.set()
        yield bytes(1000) + b"\r\n--b--\r\n"

    answer = alice.session.post(
        f"{deployment.url}/files/upload",
        data=body(),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    assert arrived.is_set()
    assert answer.json()["size"] == 4_001_000


def test_the_client_is_who_the_proxy_saw(deployment):
    """Anybody may write an X-Forwarded-For; limits are counted by address."""

    def asked(number: int) -> tuple[int, int]:
        """(end of the limit's period, requests left in it)"""
        forged = {"X-Forwarded-For": f"203.0.113.{number}"}
        told = deployment.ask("/workflows/", headers=forged).headers
        return int(told["X-RateLimit-Reset"]), int(told["X-RateLimit-Remaining"])

    first, second = asked(1), asked(2)
    if second[0] - first[0] > 5:  # seconds: the next period has begun in between
        first, second = second, asked(3)
    assert second[1] == first[1] - 1


def test_flower_is_behind_the_same_address_and_asks_for_a_password(deployment):
    assert deployment.ask("/flower/").status_code == 401
    assert deployment.ask("/flower/", auth=("operator", "wrong")).status_code == 401
    page = deployment.ask("/flower/", auth=OPERATOR)
    assert page.status_code == 200
    style = re.search(r'href="(/flower/static/[^"]+\.css[^"]*)"', page.text)
    assert style
    assert deployment.ask(style[1], auth=OPERATOR).status_code == 200
    assert deployment.ask("/flower", auth=OPERATOR).url == f"{deployment.url}/flower/"


def test_flower_shows_workers_and_queues_by_names_that_say_what_they_do(deployment):
    def workers():
        found = deployment.ask("/flower/api/workers?refresh=1", auth=OPERATOR).json()
        told = [worker for worker in found.values() if "active_queues" in worker]
        return found if len(told) == 2 else None

    found = wait_for(workers, seconds=60, what="both workers in Flower")
    queues = {
        name.partition("@")[0]: sorted(queue["name"] for queue in worker["active_queues"])
        for name, worker in found.items()
    }
    rest = next(name for name in queues if name != "gpu-comfyui")
    assert queues["gpu-comfyui"] == ["gpu", "gpu.comfyui"]
    assert rest.startswith("default-models-webhooks")
    assert queues[rest] == ["default", "models", "webhooks"]


def test_the_admin_page_has_its_style(deployment):
    page = deployment.ask("/admin/login/")
    assert page.status_code == 200
    styles = re.findall(r'<link[^>]+href="(/static/[^"]+\.css)"', page.text)
    assert styles
    for style in styles:
        answer = deployment.ask(style)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/css")


def test_no_request_fails_while_the_api_is_replaced(deployment, alice):
    codes: list[int] = []
    enough = threading.Event()

    def ask_on():
        while not enough.is_set():
            codes.append(deployment.ask("/health/").status_code)
            codes.append(
                alice.post("/workflows/execute", {"workflow": {}}).status_code
            )  # a body, and no effect
            time.sleep(0.4)  # the default limits hold here too

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        wait_for(lambda: len(codes) >= 2, seconds=60)
        deployment.processes["api"].stop(seconds=30)
        before = len(codes)
        deployment.start("api")
        deployment.wait_until_well("api")
        wait_for(lambda: len(codes) >= before + 4, seconds=60)
    finally:
        enough.set()
        asking.join()
    assert set(codes) == {200, 400}


def test_they_write_only_where_a_container_lets_them(deployment):
    """The file system of the image is read-only; volumes and tmpfs are where compose.yaml mounts them."""
    mounted = {
        Path(mount.split(":")[1] if ":/" in mount else mount.split(":")[0])
        for name in deployment.processes
        for key in ("volumes", "tmpfs")
        for mount in deployment.services[name].get(key, [])
    }
    written = {path.name for path in (deployment.folder / "data").iterdir()}
    assert written <= {path.name for path in mounted if path.parent == Path("/data")}


# -- the database is lost in mid-run, and a dump is restored: docs/operations.md -------------------------
def run_on(deployment, program: str, *arguments: str | Path) -> None:
    done = subprocess.run(
        [postgres.program(program), "--dbname", deployment.database_url, *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def restored(deployment, tmp_path):
    """Two are submitted before the dump (one runs, one waits) and one after it; then all dies."""
    alice = deployment.person()
    running = alice.execute(graphs.sleep(15.0, steps=60, seed=4711))  # for longer than the dump takes
    with follow(alice, running) as stream:
        stream.until("progress")
    waiting = alice.execute(graphs.colour(0x00AA00))
    dump = tmp_path / "comfyserve.dump"
    run_on(deployment, "pg_dump", "--format=custom", "--file", dump)
    lost = alice.execute(graphs.colour(0xAA0000))
    for name in ("gpu-worker", "worker", "api"):
        deployment.processes[name].kill()
    deployment.make_database()
    run_on(deployment, "pg_restore", "--exit-on-error", "--no-owner", dump)
    for name in ("api", "gpu-worker", "worker"):
        deployment.start(name)
    deployment.wait_until_well("api")
    return alice, running, waiting, lost


def test_running_and_waiting_executions_finish_and_later_ones_are_gone(restored, deployment):
    alice, running, waiting, lost = restored
    for execution in (running, waiting):
        with follow(alice, execution) as stream:
            stream.until("status", status="completed", seconds=60)
        assert len(alice.get(f"/workflows/{execution}").json()["outputs"]["images"]) == 1
    assert alice.get(f"/workflows/{lost}").status_code == 404
    # Its ComfyUI lived on: the run was joined there, not done again.
    assert deployment.sql("SELECT attempt, returns FROM workflows_execution WHERE id = %s", running) == [
        (1, 0)
    ]
