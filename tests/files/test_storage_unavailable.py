"""The S3 server does not respond: requests fail immediately, executions wait for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from script.harness import graphs
from script.harness.relay import Proxy
from script.harness.stack import Person, Stack
from script.harness.waiting import wait_for
from tests.files.conftest import assert_error, picture, storage_url, upload, uploaded


@pytest.fixture(scope="module")
def proxy(s3_server, s3_bucket) -> Iterator[Proxy]:
    with Proxy(s3_server.url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def storage(_stack, proxy, s3_server) -> Iterator[dict[str, str]]:
    port = int(proxy.url.rpartition(":")[2])
    env = {"STORAGE_URL": storage_url(s3_server, port=port)}
    _stack.start_web(env=env)
    yield env
    _stack.stop_web()


@pytest.fixture(scope="module")
def carol(_stack, storage) -> Person:
    return _stack.person("carol")


@pytest.fixture
def broken_storage(proxy) -> Iterator[Proxy]:
    proxy.cut()
    yield proxy
    proxy.mend()


class TestRequests:
    def test_an_upload_is_answered_503_and_may_be_tried_again(self, carol, broken_storage):
        content = picture()
        answer = upload(carol, content)
        assert_error(answer, 503, "service_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
        assert carol.get("/files/").json() == []
        broken_storage.mend()
        assert upload(carol, content).status_code == 200

    def test_a_download_is_answered_503(self, carol, proxy):
        file_id = uploaded(carol, b"some text")
        proxy.cut()
        assert_error(carol.get(f"/files/{file_id}"), 503, "service_unavailable")
        proxy.mend()
        assert carol.get(f"/files/{file_id}").content == b"some text"

    def test_requests_that_need_no_bytes_are_answered(self, carol, broken_storage):
        assert carol.get("/files/").status_code == 200


class TestExecutions:
    @pytest.fixture(autouse=True)
    def worker(self, stack: Stack, storage, comfyui) -> None:
        stack.start_worker("gpu-s3", comfyui_url=comfyui.url, env=storage)

    def test_outputs_wait_for_the_storage(self, stack, carol, proxy):
        proxy.cut()
        execution_id = carol.execute(graphs.colour(0x102030))
        log = stack.workers["gpu-s3"]
        wait_for(lambda: any("not stored" in line for line in log.tail(200)), seconds=60, what="a first try")
        assert carol.get(f"/workflows/{execution_id}").json()["status"] == "running"
        proxy.mend()
        result = carol.result(execution_id, seconds=60)
        assert (result["status"], len(result["outputs"]["images"])) == ("completed", 1)

    def test_inputs_wait_for_the_storage(self, stack, carol, proxy):
        file_id = uploaded(carol, picture())
        proxy.cut()
        workflow = {
            "1": {"class_type": "LoadImage", "inputs": {"image": file_id}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }
        execution_id = carol.execute(workflow)

        def first_try_is_logged() -> bool:
            lines = carol.get(f"/workflows/{execution_id}/logs").json()["logs"]
            return any("storage does not respond" in line["message"] for line in lines)

        wait_for(first_try_is_logged, seconds=60, what="a first try")
        proxy.mend()
        assert carol.result(execution_id, seconds=60)["status"] == "completed"
