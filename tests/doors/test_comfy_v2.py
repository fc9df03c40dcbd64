"""The Comfy API v2 with its own client, PyPI's `comfy-sdk`, unmodified, on a real stack and ComfyUI."""

from __future__ import annotations

import io
import uuid
from typing import Any

import comfy_sdk
import pytest
import requests
from comfy_low.errors import ApiError
from comfy_sdk import events as sdk_events
from django.db import connection
from PIL import Image

from script.harness import graphs
from script.harness.stack import Person
from tests.factories import Api, make_user
from workflows.presentation import selectors


def token_of(person: Person) -> str:
    return str(person.session.headers["Authorization"]).removeprefix("Bearer ")


@pytest.fixture
def person(gpu_worker: Any, monkeypatch: Any) -> Person:
    monkeypatch.setenv("COMFY_BASE_URL", gpu_worker.url)
    return gpu_worker.person()


@pytest.fixture
def client(person: Person) -> Any:
    with comfy_sdk.Comfy(api_key=token_of(person)) as made:
        yield made


def png(colour: tuple[int, int, int] = (1, 2, 3)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def loaded(image: Any) -> graphs.Graph:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "loaded"}},
    }


def jobs_of(person: Person, body: Any, **headers: str) -> requests.Response:
    return person.session.post(f"{person.url}/api/v2/jobs", json=body, headers=headers, timeout=30)


# -- texts ---------------------------------------------------------------------------------------------------
def test_a_text_is_an_output_that_is_downloaded(client, person, gpu_worker, tmp_path):
    text = {"1": {"class_type": "PreviewAny", "inputs": {"source": "grüße"}}}
    job = client.run(client.workflows.from_json(text))
    [output] = job.outputs
    assert (output.type, output.node_id, output.content_type) == ("text", "1", "text/plain")
    assert output.to_file(tmp_path / output.name).read_text() == "grüße"
    assert output.size_bytes == len("grüße".encode())
    about = person.get(f"/api/v2/assets/{output.id}").json()
    assert (about["id"], about["file_path"]) == (output.id, output.name)
    assert requests.get(about["url"], timeout=30).status_code == 401
    stranger = gpu_worker.person()
    for path in ("", "/content"):
        assert stranger.get(f"/api/v2/assets/{output.id}{path}").status_code == 404
    assert person.get("/api/v2/assets/text_x").status_code == 404


# -- jobs --------------------------------------------------------------------------------------------------
def test_a_workflow_runs_and_its_output_is_fetched(client):
    job = client.run(client.workflows.from_json(graphs.colour(0x00FF00)))
    assert job.status == "succeeded"
    [output] = job.outputs
    assert (output.type, output.content_type, output.node_id, output.job_id) == (
        "image", "image/png", "2", job.id,
    )  # fmt: skip
    data = output.to_bytes()
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (0, 255, 0)
    assert output.to_bytes(range=(0, 3)) == data[:4]
    assert output.get_download_url().url.endswith(f"/api/v2/assets/{output.id}/content")
    again = client.jobs.get(job.id)
    assert again.get_workflow().graph == graphs.colour(0x00FF00)
    assert again.get_workflow().format == "api"


def test_an_uploaded_asset_is_an_input_and_is_sent_once(client):
    image = png((10, 20, 30))
    first = client.assets.from_bytes(image, filename="a.png")
    job = client.run(client.workflows.from_json(loaded(first)))
    [output] = job.outputs
    assert Image.open(io.BytesIO(output.to_bytes())).getpixel((0, 0)) == (10, 20, 30)
    assert first.created_new is True
    second = client.assets.from_bytes(image, filename="b.png")
    assert second.commit() != first.id
    assert second.created_new is False
    assert client.assets.get(second.id).file_path == "b.png"
    assert client.assets.get(second.id).hash == first.hash
    second_id = second.id
    second.delete()
    with pytest.raises(comfy_sdk.NotFound):
        client.assets.get(second_id)
    assert client.assets.get(first.id).id == first.id


def test_tags_are_kept_with_an_asset(person):
    def upload(*tags: str) -> Any:
        files = [("file", ("a.png", png(), "image/png")), *(("tags", (None, tag)) for tag in tags)]
        return person.post("/api/v2/assets", files=files)

    made = upload("photo", "été", "photo")
    assert made.status_code == 201, made.text
    assert made.json()["tags"] == ["photo", "été"]
    assert person.get(f"/api/v2/assets/{made.json()['id']}").json()["tags"] == ["photo", "été"]
    body = {"hash": made.json()["hash"], "tags": ["second"]}
    assert person.post("/api/v2/assets/from-hash", body).json()["tags"] == ["second"]
    assert upload().json()["tags"] == []
    for wrong in ([str(n) for n in range(11)], ["x" * 101], [""]):
        assert upload(*wrong).status_code == 422
    assert person.post("/api/v2/assets/from-hash", {**body, "tags": "x"}).status_code == 422


def test_events_follow_a_run_until_its_end(client):
    job = client.submit(client.workflows.from_json(graphs.sleep(5.0, steps=20, seed=7)))
    seen = list(job.events())
    statuses = [event.status for event in seen if isinstance(event, sdk_events.StatusChange)]
    assert statuses[-1] == "succeeded"
    assert "running" in statuses
    progress = [event for event in seen if isinstance(event, sdk_events.Progress)]
    assert progress
    assert all(0 <= event.value <= 1 and event.nodes_total == 2 for event in progress)
    [ready] = [event for event in seen if isinstance(event, sdk_events.OutputReady)]
    content = ready.output.to_bytes()
    assert isinstance(content, bytes)  # the client is not the asynchronous one
    assert content.startswith(b"\x89PNG")
    assert any(isinstance(event, sdk_events.Log) for event in seen)


def test_all_events_of_an_ended_job_are_sent(client):
    job = client.run(client.workflows.from_json(graphs.colour(0x123456)))
    seen = list(job.events())
    assert isinstance(seen[-1], sdk_events.StatusChange)
    assert seen[-1].status == "succeeded"
    assert any(isinstance(event, sdk_events.OutputReady) for event in seen)


def test_a_running_job_is_canceled(client):
    job = client.submit(client.workflows.from_json(graphs.sleep(60, steps=600, seed=8)))
    assert job.cancel().status == "canceled"
    assert job.cancel().status == "canceled"
    with pytest.raises(comfy_sdk.JobFailed):
        job.result()


def test_a_failed_job_says_which_node(client):
    workflow = loaded(client.assets.from_bytes(png(), filename="a.png"))
    workflow["1"]["inputs"]["image"].commit()
    workflow["2"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    job = client.submit(client.workflows.from_json(workflow)).wait(60)
    assert job.status == "failed"
    assert job.error.message


@pytest.mark.parametrize("limit", ["0", "x", "%C2%B2", "0000000001" + "9" * 5000])
def test_a_limit_that_is_no_number_is_refused(person, limit):
    assert person.get(f"/api/v2/jobs?limit={limit}").status_code == 422


def test_jobs_are_listed_by_their_labels_page_by_page(client):
    graph = client.workflows.from_json(graphs.colour(1))
    made = [client.submit(graph, metadata={"run": "7", "n": str(n)}).id for n in range(3)]
    other = client.submit(graph, metadata={"run": "8"}).id
    assert [job.id for job in client.list_jobs(metadata={"run": "7"}, limit=2)] == made[::-1]
    assert [job.id for job in client.list_jobs(limit=3)] == [other, *made[::-1]]
    [third] = client.list_jobs(metadata={"n": "2"})
    assert third.metadata == {"run": "7", "n": "2"}
    assert third.create_time.tzinfo is not None
    assert client.jobs.get(made[0]).metadata == {"run": "7", "n": "0"}


@pytest.mark.parametrize("labels", [{str(n): "x" for n in range(17)}, {"k": 7}, {"": "x"}, "x"])
def test_labels_that_break_the_rules_are_refused(person, labels):
    response = jobs_of(person, {"workflow": graphs.colour(1), "metadata": labels})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "metadata_invalid"


async def drain(job: Any) -> list[Any]:
    return [event async for event in job.events()]


def test_the_asynchronous_client_does_the_same(person):
    import asyncio

    async def all_of_it() -> None:
        async with comfy_sdk.AsyncComfy(api_key=token_of(person)) as client:
            image = client.assets.from_bytes(png((7, 8, 9)), filename="c.png")
            job = await client.submit(client.workflows.from_json(loaded(image)))
            seen = await drain(job)
            assert seen[-1].status == "succeeded"
            await job.result()
            data = await job.outputs[0].to_bytes()
            assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (7, 8, 9)
            assert [each.id async for each in client.list_jobs()] == [job.id]
            assert (await job.get_workflow()).format == "api"
            await image.delete()

    asyncio.run(all_of_it())


# -- named inputs ------------------------------------------------------------------------------------------
def test_an_app_runs_with_named_inputs(client, person):
    saved = person.post(
        "/apps",
        {
            "name": "paint",
            "workflow": graphs.colour(0),
            "inputs": [{"name": "colour", "node": "1", "input": "color"}],
        },
    )
    assert saved.status_code == 201, saved.text
    response = jobs_of(person, {"workflow": "paint", "inputs": {"colour": 0x0000FF}, "metadata": {"a": "b"}})
    assert response.status_code == 201, response.text
    job = client.jobs.get(response.json()["id"]).result()
    assert Image.open(io.BytesIO(job.outputs[0].to_bytes())).getpixel((0, 0)) == (0, 0, 255)


# -- refusals ----------------------------------------------------------------------------------------------
def test_mistakes_have_the_sdks_errors(client):
    with pytest.raises(comfy_sdk.InvalidWorkflow, match="class_type"):
        client.submit(client.workflows.from_json({"1": {"inputs": {}}}))
    reference = {"__type": "core/ASSET", "info": {"id": "file_" + "0" * 32}}
    with pytest.raises(comfy_sdk.MissingAsset):
        client.submit(client.workflows.from_json(loaded(reference)))
    with pytest.raises(comfy_sdk.NotFound):
        client.jobs.get(str(uuid.uuid4()))
    with comfy_sdk.Comfy(api_key="nonsense") as stranger, pytest.raises(comfy_sdk.Unauthorized):
        stranger.jobs.get(str(uuid.uuid4()))


def test_another_users_assets_and_bytes_are_not_found(client, gpu_worker):
    mine = client.assets.from_bytes(png((3, 3, 3)), filename="mine.png")
    mine.commit()
    with comfy_sdk.Comfy(api_key=token_of(gpu_worker.person())) as other:
        assert other._low.head_asset_by_hash(mine.hash) is False
        with pytest.raises(ApiError) as refused:
            other._low.asset_from_hash(mine.hash)
        assert refused.value.code == "blob_not_found"
        with pytest.raises(comfy_sdk.MissingAsset):
            other.submit(other.workflows.from_json(loaded(mine.as_reference())))


def test_bytes_that_do_not_match_the_checksum_are_rejected(client):
    with pytest.raises(ApiError) as refused:
        client._low.post_assets(
            io.BytesIO(png()), "image/png", "a.png", expected_hash="blake3:" + "0" * 64, file_size=None
        )
    assert (refused.value.http_status, refused.value.code) == (409, "hash_mismatch")


def test_a_repeated_key_gives_the_same_job_and_another_body_is_refused(person):
    key, body = str(uuid.uuid4()), {"workflow": graphs.colour(5)}
    first = jobs_of(person, body, **{"Idempotency-Key": key})
    again = jobs_of(person, body, **{"Idempotency-Key": key})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    other = jobs_of(person, {"workflow": graphs.colour(6)}, **{"Idempotency-Key": key})
    assert other.status_code == 422
    assert other.json()["error"]["code"] == "idempotency_key_reuse"


def test_a_repeated_upload_gives_the_same_asset(client):
    key, data = str(uuid.uuid4()), png((4, 4, 4))
    first, again = (
        client._low.post_assets(io.BytesIO(data), "image/png", "a.png", idempotency_key=key) for _ in range(2)
    )
    assert first.id == again.id
    with pytest.raises(ApiError) as refused:
        client._low.post_assets(io.BytesIO(png((5, 5, 5))), "image/png", "a.png", idempotency_key=key)
    assert refused.value.code == "idempotency_key_reuse"


def test_a_deleted_asset_is_not_repeated(client):
    key, data = str(uuid.uuid4()), png((6, 6, 6))
    first = client._low.post_assets(io.BytesIO(data), "image/png", "a.png", idempotency_key=key)
    client.assets.delete(first.id)
    with pytest.raises(ApiError) as refused:
        client._low.post_assets(io.BytesIO(data), "image/png", "a.png", idempotency_key=key)
    assert refused.value.http_status == 409


def test_keys_of_partner_services_are_taken_and_not_stored_in_clear(client, gpu_worker):
    job = client.submit(client.workflows.from_json(graphs.colour(2)), api_key="comfyui-secret-key")
    assert job.result().outputs
    assert gpu_worker.sql(
        "SELECT count(*) FROM workflows_graph WHERE extras::text LIKE '%%secret-key%%'"
    ) == [(0,)]


def test_previews_are_pictures(client):
    job = client.submit(client.workflows.from_json(graphs.txt2img(steps=1000, seed=91)))
    try:
        preview = next(event for event in job.events() if isinstance(event, sdk_events.Preview))
        assert preview.content_type == "image/jpeg"
        assert preview.to_pil().format == "JPEG"
        assert preview.node_id == "5"
    finally:
        job.cancel()


def test_an_editors_file_is_taken(person, client):
    editor = {
        "nodes": [
            {
                "id": 1, "type": "EmptyImage", "mode": 0, "inputs": [], "widgets_values": [16, 16, 1, 255],
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            },
            {
                "id": 2, "type": "SaveImage", "mode": 0, "widgets_values": ["x"], "outputs": [],
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "last_node_id": 2,
        "version": 0.4,
    }  # fmt: skip
    response = jobs_of(person, {"workflow": editor})
    assert response.status_code == 201, response.text
    job = client.jobs.get(response.json()["id"]).result()
    assert job.get_workflow().format == "save"
    assert len(job.outputs) == 1


def test_moments_have_a_zone_and_addresses_a_host(person):
    job = jobs_of(person, {"workflow": graphs.colour(3)}).json()
    assert job["created_at"].endswith("Z")
    assert job["expires_at"].endswith("Z")
    asset = person.session.post(
        f"{person.url}/api/v2/assets", files={"file": ("a.png", png((2, 2, 2)))}, timeout=30
    ).json()
    assert asset["url"].startswith(person.url)
    assert requests.get(asset["url"], timeout=10).content == png((2, 2, 2))


def test_an_exceeded_quota_says_when_to_retry(person, gpu_worker):
    gpu_worker.sql(
        "INSERT INTO accounts_userlimits (user_id, rate_limits, highest_priority, executions_per_day)"
        " SELECT id, '', '', 1 FROM accounts_user"
        " WHERE email = %s",
        person.email,
    )
    assert jobs_of(person, {"workflow": graphs.colour(1)}).status_code == 201
    response = jobs_of(person, {"workflow": graphs.colour(1)})
    assert response.status_code == 429, response.text
    assert response.json()["error"]["code"] == "queue_full"
    assert int(response.headers["Retry-After"]) > 0


def test_a_full_queue_says_when_to_retry(as_alice, settings):
    settings.MAX_PENDING = 0
    selectors.cached_pending_count.forget()
    response = as_alice.post("/api/v2/jobs", {"workflow": graphs.colour(1)})
    assert (response.status_code, response["Retry-After"]) == (429, "60")
    assert response.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize("more", [{"webhook_url": "http://x"}, {"priority": "high"}])
def test_fields_that_the_api_does_not_have_are_refused(as_alice, more):
    response = as_alice.post("/api/v2/jobs", {"workflow": graphs.colour(1), **more})
    assert response.status_code == 422
    assert response.json()["error"]["details"]["errors"][0]["code"] == "UNKNOWN_FIELD"


def test_an_invalid_cursor_is_rejected(as_alice):
    response = as_alice.get("/api/v2/jobs?cursor=nonsense")
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_cursor")


@pytest.mark.django_db
def test_the_filter_by_metadata_has_an_index():
    """For many rows; with as few as here PostgreSQL takes it only when nothing else is allowed."""
    rows = selectors.with_labels(user=make_user("carol"), labels={"client": "acme"}).order_by()
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        # Of all executions with any metadata; it costs the same while there are none.
        cursor.execute("DROP INDEX execution_of_user_labelled")
    assert "execution_own_metadata" in rows.explain()


@pytest.mark.django_db
def test_labels_of_executions_beyond_the_newest_are_found_in_the_index(as_alice, monkeypatch):
    monkeypatch.setattr(selectors, "NEWEST", 2)
    body = {"workflow": graphs.colour(1), "metadata": {"run": "7", "n": "0"}}
    made = [as_alice.post("/api/v2/jobs", body).json()["id"] for _ in range(3)]
    for person in (as_alice, as_alice, Api.of(make_user("carol"))):
        person.post("/api/v2/jobs", body | {"metadata": {"run": "8"}})
    first = as_alice.get("/api/v2/jobs?metadata[run]=7&limit=2").json()
    assert [job["id"] for job in first["jobs"]] == made[:0:-1]
    rest = as_alice.get(f"/api/v2/jobs?metadata[run]=7&limit=2&cursor={first['next_cursor']}").json()
    assert [job["id"] for job in rest["jobs"]] == made[:1]
    newest = as_alice.get("/api/v2/jobs?metadata[run]=8&limit=2").json()
    assert len(newest["jobs"]) == 2
