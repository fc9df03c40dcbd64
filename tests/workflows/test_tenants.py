"""Two users on one real ComfyUI: neither can read, write or name the other's files."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth.models import Group
from PIL import Image

from comfyui import Client, NotFound, OutputFile, Unreachable
from comfyui.bridge import Bridge
from script.harness import graphs
from script.harness.graphs import Graph
from script.harness.waiting import wait_for
from tests.factories import Api, make_user
from tests.files.conftest import picture, uploaded
from workflows.graph import node_classes, node_policy
from workflows.models import NodeRule, ObjectInfo, Worker
from workflows.worker.backend import Backend

TEXT = {"class_type": "PrimitiveString", "inputs": {"value": "text"}}


@pytest.fixture
def alice(gpu_worker):
    return gpu_worker.person("alice")


@pytest.fixture
def bob(gpu_worker):
    return gpu_worker.person("bob")


def loading(value: Any, class_type: str = "LoadImage", name: str = "image", **more: Any) -> Graph:
    return {
        "1": {"class_type": class_type, "inputs": {name: value, **more}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def refusal(person: Any, workflow: Graph) -> list[dict[str, Any]]:
    answer = person.post("/workflows/execute", {"workflow": workflow})
    assert answer.status_code == 400, answer.text
    details: list[dict[str, Any]] = answer.json()["details"]
    return details


def file_of(person: Any, output: dict[str, Any]) -> bytes:
    answer = person.get(f"/files/{output['file_id']}")
    assert answer.status_code == 200, answer.text
    return bytes(answer.content)


PREFIXES = ["a\nb", "tab\there\r\n", "v1..final", "up.../..x", "\x01\x7f"]


@pytest.mark.parametrize("is_linked", [False, True])
def test_filenames_that_comfyui_cannot_serve_are_corrected(alice, is_linked):
    graph = graphs.colour(7)
    for number, prefix in enumerate(PREFIXES):
        text = {"class_type": "PrimitiveString", "inputs": {"value": prefix}}
        given = [f"t{number}", 0] if is_linked else prefix
        graph[f"t{number}"] = text
        graph[f"s{number}"] = {
            "class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": given}
        }  # fmt: skip
    result = alice.result(alice.execute(graph))
    assert (result["status"], result["warnings"]) == ("completed", [])
    names = {each["node_id"]: each["filename"] for each in result["outputs"]["images"]}
    assert [names[f"s{number}"].removesuffix("_00001_.png") for number in range(len(PREFIXES))] == [
        "a_b", "tab_here__", "v1_.final", "_.x", "__"
    ]  # fmt: skip


class TestReading:
    @pytest.mark.parametrize(
        "value",
        [
            "../output/x.png", "/etc/passwd", "comfyserve/" + "0" * 64 + ".png", "./comfyserve", "~/x.png",
            "x.png [output]", "x.png [temp]", "x.png [input]", "x.png[output]", "..", "C:x.png", "a\\b.png",
            {"__value__": "/etc/passwd"}, {"__value__": {"__value__": "x"}}, ["3", 0], 7, None,
            {"__value__": ["/etc/passwd", 0]},
        ],
    )  # fmt: skip
    @pytest.mark.parametrize(
        "class_type, name, more",
        [
            ("LoadImage", "image", {}),
            ("LoadImageMask", "image", {"channel": "red"}),
            ("LoadImageOutput", "image", {}),
            ("LoadLatent", "latent", {}),
            ("LoadVideo", "file", {}),
        ],
    )
    def test_a_file_input_accepts_only_files_that_we_placed(self, alice, value, class_type, name, more):
        workflow = loading(value, class_type, name, **more) | {"3": TEXT}
        [detail] = refusal(alice, workflow)
        assert (detail["code"], detail["field"]) == ("PATH_NOT_ALLOWED", f"workflow.1.inputs.{name}")
        assert f"of node 1 ({class_type})" in detail["message"]

    @pytest.mark.parametrize("value", ["../temp/x.png", "x.png [temp]"])
    def test_so_do_the_pictures_of_a_3d_view(self, alice, value):
        image = {"image": value, "mask": "a", "normal": "b", "recording": ""}
        [detail] = refusal(alice, loading(image, "Load3D", "image", model_file="x.glb", width=64, height=64))
        assert detail["code"] == "PATH_NOT_ALLOWED"

    def test_a_3d_view_accepts_stored_files(self, alice, bob):
        """Its pictures stand inside an object."""
        own, theirs = (uploaded(person, picture((7, 8, 9))) for person in (alice, bob))

        def view(file_id: str) -> Graph:
            image = {"image": own, "mask": file_id, "normal": own, "recording": "", "camera_info": {}}
            return loading(image, "Load3D", "image", model_file="x.glb", width=64, height=64)

        [detail] = refusal(alice, view(theirs))
        assert (detail["code"], detail["field"]) == ("FILE_NOT_FOUND", "workflow.1.inputs.image.mask")
        marked = view(f"comfyserve-input:{theirs}")
        assert refusal(alice, marked)[0]["field"] == "workflow.1.inputs.image.mask"
        result = alice.result(alice.execute(view(own) | {"3": TEXT}))
        # No 3D model can be chosen on this ComfyUI: that is all it has to say against it.
        assert "model_file" in str(result), result
        assert "image" not in str(result["error"]).replace("image_", ""), result

    def test_a_plain_name_finds_nothing_of_others(self, alice, comfyui):
        (comfyui.folder / "input" / "private.png").write_bytes(picture())
        result = alice.result(alice.execute(loading("private.png")))
        assert result["status"] == "failed"
        (comfyui.folder / "input" / "private.png").unlink()

    def test_inputs_placed_for_another_user_are_not_visible(self, alice, bob, comfyui):
        """Posted to ComfyUI itself, past our checks: the bridge is a wall of its own."""
        bob.result(bob.execute(loading(uploaded(bob, picture((1, 2, 3))))))
        names = [path.name for path in (comfyui.folder / "input" / "comfyserve").iterdir()]
        assert names
        name = f"comfyserve/{names[0]}"
        for value in (name, f"../{name}", f"{name} [input]", str(comfyui.folder / "input" / name)):
            answer = post(comfyui, loading(value), inputs=[])
            assert answer.status_code == 400, answer.text
            assert "Invalid image file" in answer.text
        assert post(comfyui, loading(f"comfyserve/{names[0]}"), inputs=[names[0]]).status_code == 200

    def test_folder_listings_show_no_other_users_files(self, alice, comfyui):
        alice.result(alice.execute(loading(uploaded(alice, picture()))))
        gate = uuid.uuid4().hex
        running = alice.execute(graphs.gate(gate))
        wait_for(lambda: any((comfyui.folder / "input").glob(f"{running}.*")), what="its folder")
        listed = requests.get(f"{comfyui.url}/object_info/LoadImageDataSetFromFolder", timeout=30).text
        assert "comfyserve" not in listed
        assert running not in listed
        comfyui.open_gate(gate)
        alice.result(running)


def post(comfyui: Any, workflow: Graph, *, inputs: list[str], mark: str | None = None) -> requests.Response:
    """As a worker posts it."""
    prompt_id = str(uuid.uuid4())
    mark = mark or f"{prompt_id}.1"
    extra = {"comfyserve": {"mark": mark, "inputs": inputs, "workflow": workflow}}
    body = {"prompt": workflow, "prompt_id": prompt_id, "client_id": "test", "extra_data": extra}
    return requests.post(f"{comfyui.url}/prompt", json=body, timeout=20)


class TestWriting:
    @pytest.mark.parametrize(
        "prefix, subfolder",
        [
            ("../x", ""), ("", ""), (".", ""), (7, ""), ("/tmp/x", "tmp"), ("a/../../b", "a"),
            ("..\\..\\x", ""), ("%year%/../x", None), ({"__value__": "../x"}, ""),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("linked", [False, True])
    def test_a_prefix_stays_in_the_folder_of_its_attempt(self, alice, comfyui, prefix, subfolder, linked):
        if linked and not isinstance(prefix, str):
            pytest.skip("a link brings a text")
        before = unmarked(comfyui)
        workflow = graphs.colour(3, prefix=prefix)
        if linked:
            workflow["3"] = {"class_type": "PrimitiveString", "inputs": {"value": prefix}}
            workflow["2"]["inputs"]["filename_prefix"] = ["3", 0]
        result = alice.result(alice.execute(workflow))
        assert result["status"] == "completed", result
        [image] = result["outputs"]["images"]
        if subfolder is not None:
            assert image["subfolder"] == subfolder
        assert unmarked(comfyui) <= before

    def test_the_same_node_writes_for_each_prompt_into_its_own(self, alice, bob):
        """Nodes live longer than a prompt, with the folder of their construction."""
        workflow = graphs.colour(4) | {"3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
        for person in (alice, bob, alice):
            result = person.result(person.execute(workflow))
            assert len(result["outputs"]["images"]) == 2, result


def unmarked(comfyui: Any) -> set[str]:
    """What lies in no attempt's folder."""
    places = (comfyui.folder / "output", comfyui.folder / "temp", comfyui.folder)
    return {
        str(path)
        for place in places
        for path in place.iterdir()
        if not node_mark(path.name) and path.name not in ("user", "__pycache__")
    }


def node_mark(name: str) -> bool:
    return len(name.rpartition(".")[0]) == 36


def test_old_previews_without_a_mark_are_swept(comfyui):
    old, new = (comfyui.folder / "temp" / f"{uuid.uuid4().hex}.png" for _ in range(2))
    for path in (old, new):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    client = Client(comfyui.url)
    try:
        Bridge(client).leftovers()
    finally:
        client.close()
    assert [path.exists() for path in (old, new)] == [False, True]
    new.unlink()


class TestCollecting:
    @pytest.mark.parametrize(
        "place",
        [
            {"subfolder": "", "type": "output"}, {"subfolder": "", "type": "temp"},
            {"subfolder": "", "type": "input"}, {"subfolder": "../output", "type": "temp"},
            {"subfolder": "{own}/..", "type": "output"},
        ],
    )  # fmt: skip
    def test_a_file_that_a_node_only_names_is_not_collected(self, alice, comfyui, place):
        secret = comfyui.folder / place["type"] / "secret.png"
        secret.write_bytes(picture())
        camera = {"filename": "secret.png", **place}
        workflow = graphs.colour(5) | {
            "3": {"class_type": "Preview3D", "inputs": {"model_file": "x.glb", "camera_info": camera}}
        }
        result = alice.result(alice.execute(workflow))
        assert result["status"] == "completed", result
        files = [each for group in result["outputs"].values() for each in group if "file_id" in each]
        assert [file["node_id"] for file in files] == ["2"]
        assert secret.exists()
        secret.unlink()


class TestReadingOutputs:
    """A worker on ComfyUI's machine reads them from its folder, and leaves what is doubtful to `/view`."""

    @pytest.fixture
    def backend(self, transactional_db, comfyui) -> Iterator[Backend]:
        backend = Backend(name="reader", url=comfyui.url, headers={})
        backend.connect()
        assert backend.session.wait_connected(60)
        backend.refresh()
        yield backend
        backend.close()

    @pytest.fixture
    def folder(self, comfyui) -> Iterator[Path]:
        folder = comfyui.folder / "output" / f"{uuid.uuid4()}.1"
        folder.mkdir()
        yield folder
        shutil.rmtree(folder)

    def view(self, backend: Backend, path: Path) -> bytes:
        with backend.view(OutputFile(path.name, path.parent.name, "output")) as content:
            return b"".join(content)

    def test_a_file_needs_no_request(self, backend, folder):
        path = folder / "a.png"
        path.write_bytes(b"picture")
        backend.client = Client("http://127.0.0.1:9")
        assert self.view(backend, path) == b"picture"

    def test_a_link_is_left_to_comfyui(self, backend, folder):
        path = folder / "a.png"
        path.symlink_to("/etc/hostname")
        backend.client = Client("http://127.0.0.1:9")
        with pytest.raises(Unreachable):
            self.view(backend, path)

    def test_a_missing_file_is_left_to_comfyui(self, backend, folder):
        with pytest.raises(NotFound):
            self.view(backend, folder / "a.png")


class TestMetadata:
    def test_a_picture_carries_the_users_own_workflow(self, alice, comfyui):
        file_id = uploaded(alice, picture((9, 9, 9)))
        workflow = {
            "1": {"class_type": "LoadImage", "inputs": {"image": file_id}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "sub/mine"}},
        }
        result = alice.result(alice.execute(workflow))
        [image] = result["outputs"]["images"]
        text = Image.open(io.BytesIO(file_of(alice, image))).text  # type: ignore[attr-defined]
        assert json.loads(text["prompt"]) == workflow
        again = alice.result(alice.execute(json.loads(text["prompt"])))
        assert again["status"] == "completed", again


class TestPolicy:
    @pytest.mark.parametrize(
        "class_type",
        [
            "LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder", "LoadTrainingDataset",
            "SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder", "SaveTrainingDataset", "SaveLoRA",
            "TrainLoraNode", "CheckpointSave", "CLIPSave", "VAESave", "ModelSave", "LoraSave", "RegexMatch",
            "RegexExtract", "RegexReplace", "ImageOnlyCheckpointSave",
        ],
    )  # fmt: skip
    def test_nodes_that_read_write_train_or_block_are_denied(self, alice, class_type):
        node = {"class_type": class_type, "inputs": {}, "_meta": {"title": "My node"}}
        [detail] = refusal(alice, graphs.colour(1) | {"9": node})
        assert (detail["code"], detail["field"]) == ("NODE_NOT_ALLOWED", "workflow.9.class_type")
        assert detail["message"].startswith(f"Node 9, 'My node' ({class_type}), may not be used: ")

    def test_every_stock_node_that_takes_a_path_is_decided(self, comfyui):
        """A new ComfyUI may bring one that nobody has looked at."""
        answer = requests.get(f"{comfyui.url}/object_info", timeout=30).json()
        found = [node_classes.read(name, about) for name, about in answer.items()]
        stock = [node for node in found if not node.is_custom]
        assert len(stock) > 300
        assert [node.name for node in stock if node.reason_to_deny == node_classes.UNKNOWN] == []
        sets = (set(node_classes.DENIED), node_classes.CONFINED, node_classes.HARMLESS)
        assert not any(one & other for one in sets for other in sets if one is not other)

    def test_the_test_comfyui_confines(self, comfyui):
        client = Client(comfyui.url)
        try:
            assert Bridge(client).info() is not None
        finally:
            client.close()


class TestRules:
    """What operators decide. In this process: no ComfyUI is needed."""

    @pytest.fixture
    def person(self, db) -> Any:
        return make_user("carol")

    @pytest.fixture
    def fleet(self, db) -> None:
        about = {"python_module": "custom_nodes.pack", "input": {"required": {"path": ["STRING", {}]}}}
        new = {
            "python_module": "comfy_extras.nodes_new",
            "input": {"required": {"file_path": ["STRING", {}]}},
        }
        body = {
            "PackNode": about,
            "NewNode": new,
            "SaveImage": {"python_module": "nodes", "output_node": True},
        }
        info = ObjectInfo.objects.create(digest="d" * 64, body=body)
        Worker.objects.create(name="w", host="h", pid=1, url="u", object_info=info, reachable=True, boot="b")

    def verdict(self, user: Any, class_type: str) -> str:
        return node_policy.Policy(user_id=user.pk).of(class_type).access

    def test_custom_nodes_are_allowed_and_unknown_stock_ones_denied(self, person, fleet):
        assert self.verdict(person, "PackNode") == "allowed"
        assert self.verdict(person, "NewNode") == "denied"
        assert self.verdict(person, "SaveImage") == "confined"

    def test_a_user_rule_precedes_a_group_rule_and_the_default(self, person, fleet):
        group = Group.objects.create(name="trainers")
        person.groups.add(group)
        for scope, access in (({}, "deny"), ({"group": group}, "allow"), ({"user": person}, "deny")):
            NodeRule.objects.create(node="PackNode", access=access, **scope)
            assert self.verdict(person, "PackNode") == {"allow": "allowed", "deny": "denied"}[access]
        assert self.verdict(make_user("dave"), "PackNode") == "denied"

    @pytest.mark.parametrize("node", ["custom_nodes", "custom_nodes.pack"])
    def test_a_rule_for_a_module_holds_for_its_classes(self, person, fleet, node):
        NodeRule.objects.create(node=node, access="deny")
        assert self.verdict(person, "PackNode") == "denied"
        NodeRule.objects.create(node="PackNode", access="allow")
        assert self.verdict(person, "PackNode") == "allowed"

    def test_without_the_bridge_more_is_denied(self, person, fleet):
        assert self.verdict(person, "Preview3D") == "confined"
        Worker.objects.update(boot="")
        node_policy.cached_fleet_confines.forget()
        assert self.verdict(person, "Preview3D") == "denied"
        workflow = graphs.colour(1) | {"3": TEXT}
        workflow["2"]["inputs"]["filename_prefix"] = ["3", 0]
        denials = dict(node_policy.Policy(user_id=person.pk).denials(workflow))
        assert "filename_prefix is a link" in denials["2"]

    def test_the_api_shows_what_the_user_may_do(self, person, fleet):
        NodeRule.objects.create(node="PackNode", access="deny", user=person)
        shown = {node["class_type"]: node for node in Api.of(person).get("/workflows/nodes").json()}
        assert (shown["PackNode"]["access"], shown["PackNode"]["decided_by"]) == ("denied", "user")
        assert shown["SaveImage"]["access"] == "confined"
        assert shown["NewNode"]["reason"]

    def test_the_console_lists_each_class(self, fleet, client):
        admin = make_user("root", is_staff=True, is_superuser=True)
        client.force_login(admin)
        NodeRule.objects.create(node="PackNode", access="deny", user=admin)
        page = client.get("/admin/workflows/noderule/classes/").content.decode()
        assert all(name in page for name in ("PackNode", "NewNode", "SaveImage", "deny: root"))
        assert client.get("/admin/workflows/noderule/").status_code == 200
        assert client.get("/admin/workflows/noderule/add/").status_code == 200
