"""/apps/: saving, finding, changing and deleting apps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Group

from accounts.models import User
from files.models import File, Kind, Pin
from script.harness import graphs
from tests.console.conftest import client_of
from tests.factories import assert_error, make_user, mistakes
from workflows.models import ObjectInfo

PORTRAIT: dict[str, Any] = {"name": "portrait", "workflow": graphs.txt2img()}


def saved(api: Any, **more: Any) -> dict[str, Any]:
    response = api.post("/apps/", PORTRAIT | more)
    assert response.status_code == 201, response.content
    return response.json()


def names(app: dict[str, Any]) -> list[str]:
    return [each["name"] for each in app["inputs"]]


class TestSaving:
    def test_the_inputs_are_inferred_as_a_user_expects(self, alice, worker):
        app = saved(alice)
        assert names(app) == ["prompt", "negative_prompt", "seed", "steps", "width", "height"]
        types = {each["name"]: each["type"] for each in app["inputs"]}
        assert types["prompt"] == "text"
        assert types["seed"] == "integer"
        steps = next(each for each in app["inputs"] if each["name"] == "steps")
        assert (steps["default"], steps["minimum"], steps["maximum"]) == (4, 1, 10000)
        assert [each["name"] for each in app["outputs"]] == ["image"]
        assert app["app"] == "alice/portrait"
        assert app["title"] == "Portrait"
        assert (app["version"], app["visibility"], app["is_own"]) == (1, "private", True)
        assert app["workflow"] == PORTRAIT["workflow"]

    def test_titles_of_nodes_name_inputs_and_outputs(self, alice):
        workflow = graphs.txt2img()
        workflow["7"]["_meta"] = {"title": "The portrait"}
        workflow["8"] = {
            "class_type": "PrimitiveString", "inputs": {"value": "x"}, "_meta": {"title": "Her name"},
        }  # fmt: skip
        app = saved(alice, workflow=workflow)
        assert "her_name" in names(app)
        assert [each["name"] for each in app["outputs"]] == ["the_portrait"]

    def test_inputs_and_outputs_that_were_given(self, alice, worker):
        app = saved(
            alice,
            inputs=[
                {"name": "about", "node": "2", "input": "text", "title": "About", "required": True},
                {"name": "sampler", "node": "5", "input": "sampler_name"},
                {"name": "model", "node": "1", "input": "ckpt_name", "default": "real.safetensors"},
                {"name": "quality", "node": "5", "input": "steps", "minimum": 2, "maximum": 8, "default": 6},
            ],
            outputs=[{"name": "picture", "node": "7"}],
        )
        assert names(app) == ["about", "sampler", "model", "quality"]
        assert [each["type"] for each in app["inputs"]] == ["text", "choice", "model", "integer"]
        assert app["inputs"][0]["required"] is True
        assert app["inputs"][3]["maximum"] == 8

    def test_the_editors_app_mode_names_them(self, alice, worker):
        workflow = {
            "nodes": graphs.txt2img(),
            "extra": {
                "linearData": {
                    "inputs": [["2", "text", {"label": "What to draw"}], ["5", "steps"], ["99", "gone"]],
                    "outputs": ["7"],
                }
            },
        }
        app = saved(alice, workflow=workflow)
        assert names(app) == ["what_to_draw", "steps"]
        assert app["inputs"][0]["title"] == "What to draw"

    @pytest.mark.parametrize("name", ["", "Portrait", "a b", "run", "a/b", "a@1", "x" * 64, "-a"])
    def test_a_name_that_makes_no_address(self, alice, name):
        body = assert_error(alice.post("/apps/", PORTRAIT | {"name": name}), 400, "validation_error")
        assert list(mistakes(body)) == ["name"]

    def test_a_name_that_is_taken(self, alice, bob):
        saved(alice)
        assert_error(alice.post("/apps/", PORTRAIT), 409, "conflict")
        saved(bob)  # another's

    def test_all_errors_of_inputs_and_outputs_are_reported_by_path(self, alice):
        sent = {
            "inputs": [
                {"name": "Bad", "node": "2", "input": "text"},
                {"name": "gone", "node": "99", "input": "text"},
                {"name": "linked", "node": "5", "input": "model"},
                {"name": "low", "node": "5", "input": "steps", "minimum": 5},
            ],
            "outputs": [{"name": "x", "node": "99"}],
        }
        body = assert_error(alice.post("/apps/", PORTRAIT | sent), 400, "validation_error")
        assert set(mistakes(body)) == {
            "inputs.0.name", "inputs.1.node", "inputs.2.input", "inputs.3.default", "outputs.0.node",
        }  # fmt: skip

    def test_a_workflow_with_mistakes(self, alice):
        body = assert_error(alice.post("/apps/", PORTRAIT | {"workflow": {}}), 400, "validation_error")
        assert list(mistakes(body)) == ["workflow.nodes"]

    def test_the_same_key_saves_it_once(self, alice):
        for _ in range(2):
            response = alice.post("/apps/", PORTRAIT, headers={"Idempotency-Key": "once"})
            assert response.status_code == 201


class TestFinding:
    def test_by_name_by_owner_and_by_version(self, alice):
        saved(alice)
        for address in ("portrait", "alice/portrait", "portrait@1", "alice/portrait@1"):
            assert alice.get(f"/apps/{address}").json()["app"] == "alice/portrait"
        for address in ("portrait@2", "bob/portrait", "other", "alice/portrait/x"):
            assert_error(alice.get(f"/apps/{address}"), 404, "not_found")

    def test_a_private_app_is_only_its_owners(self, alice, bob):
        saved(alice)
        assert_error(bob.get("/apps/alice/portrait"), 404, "not_found")
        assert bob.get("/apps/").json() == []

    def test_a_public_app_hides_its_workflow_unless_its_owner_shows_it(self, alice, bob):
        saved(alice, visibility="everybody")
        app = bob.get("/apps/alice/portrait").json()
        assert "workflow" not in app
        assert "node" not in app["inputs"][0]
        assert app["is_own"] is False
        assert_error(bob.get("/apps/portrait"), 404, "not_found")  # a name alone is one's own
        alice("patch", "/apps/portrait", {"show_workflow": True})
        assert bob.get("/apps/alice/portrait").json()["workflow"] == PORTRAIT["workflow"]

    def test_one_for_a_group(self, alice, bob):
        group = Group.objects.create(name="artists")
        body = assert_error(
            alice.post("/apps/", PORTRAIT | {"visibility": "group", "group": "artists"}),
            400,
            "validation_error",
        )
        assert list(mistakes(body)) == ["group"]
        group.user_set.add(User.objects.get(username="alice"))
        saved(alice, visibility="group", group="artists")
        assert bob.get("/apps/").json() == []
        group.user_set.add(User.objects.get(username="bob"))
        assert [app["app"] for app in bob.get("/apps/").json()] == ["alice/portrait"]

    def test_the_list_takes_the_same_queries_for_any_number(self, alice, django_assert_max_num_queries):
        for number in range(5):
            saved(alice, name=f"app{number}")
        with django_assert_max_num_queries(6):
            response = alice.get("/apps/?limit=3")
        assert [app["name"] for app in response.json()] == ["app4", "app3", "app2"]
        assert response["X-Total-Count"] == "5"


class TestSchema:
    def test_choices_are_those_that_the_workers_have_now(self, alice, worker):
        saved(alice, inputs=[{"name": "model", "node": "1", "input": "ckpt_name"}])
        first = alice.get("/apps/portrait/schema").json()["inputs"]
        assert first["properties"]["model"]["enum"] == ["dream.safetensors", "real.safetensors"]
        body = ObjectInfo.objects.get().body
        body["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"] = [["new.safetensors"]]
        worker.object_info = ObjectInfo.objects.create(digest="newer", body=body)
        worker.save()
        from apps_catalog import definitions

        definitions.cached_digests.forget()
        again = alice.get("/apps/portrait/schema").json()["inputs"]
        assert again["properties"]["model"]["enum"] == ["new.safetensors"]

    def test_it_is_json_schema(self, alice, worker):
        from jsonschema import Draft202012Validator

        saved(alice, inputs=[
            {"name": "about", "node": "2", "input": "text", "required": True},
            {"name": "seed", "node": "5", "input": "seed"},
            {"name": "cfg", "node": "5", "input": "cfg"},
        ])  # fmt: skip
        schema = alice.get("/apps/portrait/schema").json()["inputs"]
        Draft202012Validator.check_schema(schema)
        assert schema["required"] == ["about"]
        assert schema["properties"]["seed"]["x-random"] is True
        assert schema["properties"]["cfg"]["x-step"] == 0.1


class TestChanging:
    def test_another_workflow_makes_a_version_and_the_old_one_stays(self, alice):
        saved(alice)
        changed = alice("patch", "/apps/portrait", {"workflow": graphs.txt2img(steps=9)}).json()
        assert changed["version"] == 2
        assert alice.get("/apps/portrait@1").json()["workflow"] == PORTRAIT["workflow"]
        assert [each["version"] for each in alice.get("/apps/portrait/versions").json()] == [2, 1]

    def test_a_new_title_makes_none(self, alice):
        saved(alice)
        changed = alice("patch", "/apps/portrait", {"title": "A face"}).json()
        assert (changed["version"], changed["title"]) == (1, "A face")
        assert changed["updated_at"]

    def test_inputs_alone_keep_the_workflow(self, alice):
        saved(alice)
        sent = {"inputs": [{"name": "about", "node": "2", "input": "text"}]}
        changed = alice("patch", "/apps/portrait", sent).json()
        assert (changed["version"], names(changed)) == (2, ["about"])
        assert changed["workflow"] == PORTRAIT["workflow"]

    def test_only_its_owner_may(self, alice, bob):
        saved(alice, visibility="everybody")
        assert_error(bob("patch", "/apps/alice/portrait", {"title": "mine"}), 404, "not_found")
        assert_error(bob.delete("/apps/alice/portrait"), 404, "not_found")

    def test_an_app_is_deleted_with_its_versions(self, alice):
        saved(alice)
        assert alice.delete("/apps/portrait").status_code == 200
        assert_error(alice.get("/apps/portrait"), 404, "not_found")


class TestFiles:
    def _file(self, name: str = "alice") -> str:
        return File.objects.create(
            user=User.objects.get(username=name), kind=Kind.UPLOAD, filename="a.png", size=1, sha256="0",
            key="uploads/0", content_type="image/png", width=1, height=1,
        ).id  # fmt: skip

    def _workflow(self, image: str) -> dict[str, Any]:
        return {
            "1": {"class_type": "LoadImage", "inputs": {"image": image}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
        }

    def test_an_apps_own_file_is_kept_as_long_as_the_app(self, alice):
        file_id = self._file()
        saved(alice, workflow=self._workflow(file_id))
        assert_error(alice.delete(f"/files/{file_id}"), 409, "conflict")
        alice.delete("/apps/portrait")
        assert alice.delete(f"/files/{file_id}").status_code == 200

    def test_others_may_run_with_it_and_use_it_for_nothing_else(self, alice, bob):
        file_id = self._file()
        workflow = self._workflow(file_id)
        saved(alice, workflow=workflow, visibility="everybody", inputs=[])
        run = bob.post("/apps/alice/portrait/run", {})
        assert run.status_code == 200, run.content
        assert Pin.objects.filter(file=file_id, holder=run.json()["execution_id"]).exists()
        body = assert_error(bob.post("/workflows/execute", {"workflow": workflow}), 400, "validation_error")
        assert mistakes(body) == {"workflow.1.inputs.image": "FILE_NOT_FOUND"}

    def test_anothers_file_is_not_taken(self, alice, bob):
        response = alice.post("/apps/", PORTRAIT | {"workflow": self._workflow(self._file("bob"))})
        assert_error(response, 400, "validation_error")


class TestOpenApi:
    def test_each_app_is_an_operation_for_who_may_run_it(self, alice, bob, stranger, worker):
        from openapi_spec_validator import validate

        saved(alice, visibility="everybody", inputs=[{"name": "about", "node": "2", "input": "text"}])
        json_ = {"Accept": "application/vnd.oai.openapi+json"}
        schema = json.loads(bob.get("/schema", headers=json_).content)
        validate(schema)
        body = schema["paths"]["/apps/alice/portrait/run"]["post"]["requestBody"]
        inputs = body["content"]["application/json"]["schema"]["allOf"][1]["properties"]["inputs"]
        assert list(inputs["properties"]) == ["about"]
        public = json.loads(stranger.get("/schema", headers=json_).content)
        assert "/apps/alice/portrait/run" not in public["paths"]


def test_the_console_shows_apps_and_versions(alice, worker):
    saved(alice)
    console = client_of(make_user("operator", is_staff=True, is_superuser=True))
    for model in ("app", "appversion"):
        page = console.get(f"/admin/apps_catalog/{model}/")
        assert page.status_code == 200
        assert b"alice/portrait" in page.content
