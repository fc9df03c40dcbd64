"""Files saved by ComfyUI's editor, the inputs of their nodes, and their conversion by the API."""

from __future__ import annotations

from typing import Any

from tests.factories import assert_error
from workflows.models import Execution, ObjectInfo, Worker


def node_info(
    inputs: dict[str, Any], outputs: tuple[str, ...] = (), *, output_node: bool = False, **more: Any
) -> dict[str, Any]:
    """One class in `object_info`."""
    return {
        "input": {"required": inputs},
        "input_order": {"required": list(inputs)},
        "output": list(outputs),
        "output_name": list(outputs),
        "output_node": output_node,
        "python_module": "nodes",
    } | more


OBJECT_INFO: dict[str, Any] = {
    "Noise": node_info(
        {
            "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}],
            "width": ["INT", {"default": 64, "min": 16, "max": 4096, "step": 8}],
            "method": [["fast", "good"], {}],
        },
        ("IMAGE",),
    ),
    "Text": node_info(
        {
            "text": ["STRING", {"multiline": True, "dynamicPrompts": True}],
            "image": ["IMAGE"],
            "strength": ["FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.1}],
        },
        ("IMAGE",),
    ),
    "LoadImage": node_info({"image": [["a.png", "b.png"], {"image_upload": True}]}, ("IMAGE", "MASK")),
    "SaveImage": node_info(
        {"images": ["IMAGE"], "filename_prefix": ["STRING", {"default": "ComfyUI"}]}, output_node=True
    ),
    "WebcamCapture": node_info({"image": ["WEBCAM", {}]}, ("IMAGE",)),
}


class File:
    """Builds a file of the editor's, of schema 0.4 or 1 (`links_as_objects`), or a subgraph's definition."""

    def __init__(self, *, links_as_objects: bool = False, **more: Any) -> None:
        self.as_objects = links_as_objects
        self.data: dict[str, Any] = {
            "version": 1 if links_as_objects else 0.4, "nodes": [], "links": [], "groups": [], **more,
        }  # fmt: skip

    def node(
        self, id_: int, type_: str, values: Any = None, *, inputs: Any = (), outputs: Any = (), **more: Any
    ) -> File:
        """`inputs` are names, with "!" at the end where it is a widget's; `outputs` are types."""
        self.data["nodes"].append(
            {
                "id": id_, "type": type_, "pos": [0, 0], "size": [200, 100], "flags": {}, "order": 0,
                "mode": 0,
                "inputs": [
                    {"name": name.rstrip("!"), "type": "*", "link": None}
                    | ({"widget": {"name": name.rstrip("!")}} if name.endswith("!") else {})
                    for name in inputs
                ],
                "outputs": [{"name": type_, "type": type_, "links": []} for type_ in outputs],
                "properties": {},
                "widgets_values": values,
                **more,
            }
        )  # fmt: skip
        return self

    def link(self, id_: int, source: tuple[int, int], target: tuple[int, str]) -> File:
        """(node, output) to (node, name of the input). -10 is a subgraph's own inputs, -20 its outputs."""
        slot = 0
        if target[0] == -20:
            slot = int(target[1])
            self.data["outputs"][slot]["linkIds"].append(id_)
        else:
            node = self._node(target[0])
            slot = next(i for i, given in enumerate(node["inputs"]) if given["name"] == target[1])
            node["inputs"][slot]["link"] = id_
        if source[0] == -10:
            self.data["inputs"][source[1]]["linkIds"].append(id_)
        else:
            self._node(source[0])["outputs"][source[1]]["links"].append(id_)
        parts = [id_, *source, target[0], slot, "*"]
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        self.data["links"].append(dict(zip(keys, parts, strict=True)) if self.as_objects else parts)
        return self

    def _node(self, id_: int) -> dict[str, Any]:
        return next(node for node in self.data["nodes"] if node["id"] == id_)


def subgraph(id_: str, *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> File:
    return File(
        links_as_objects=True, id=id_, name=f"Subgraph {id_}",
        inputs=[{"id": name, "name": name, "type": "*", "linkIds": []} for name in inputs],
        outputs=[{"id": name, "name": name, "type": "*", "linkIds": []} for name in outputs],
    )  # fmt: skip


def simple(**more: Any) -> File:
    """Noise into Text into SaveImage."""
    return (
        File(**more)
        .node(1, "Noise", [5, "randomize", 128, "good"], outputs=["IMAGE"])
        .node(2, "Text", ["a cat", 0.5], inputs=["image", "text!"], outputs=["IMAGE"], title="Words")
        .node(3, "SaveImage", ["cat"], inputs=["images"])
        .link(1, (1, 0), (2, "image"))
        .link(2, (2, 0), (3, "images"))
    )


SIMPLE_PROMPT: dict[str, Any] = {
    "1": {
        "class_type": "Noise",
        "inputs": {"seed": 5, "width": 128, "method": "good"},
        "_meta": {"title": "Noise"},
    },
    "2": {
        "class_type": "Text",
        "inputs": {"text": "a cat", "strength": 0.5, "image": ["1", 0]},
        "_meta": {"title": "Words"},
    },
    "3": {
        "class_type": "SaveImage",
        "inputs": {"filename_prefix": "cat", "images": ["2", 0]},
        "_meta": {"title": "SaveImage"},
    },
}

for _name, _about in OBJECT_INFO.items():
    _about |= {"name": _name, "display_name": _name}


def worker_with_its_nodes() -> Worker:
    """A worker that has reported OBJECT_INFO."""
    info = ObjectInfo.objects.create(digest="a" * 64, body=OBJECT_INFO)
    return Worker.objects.create(name="gpu", host="h", pid=1, url="u", reachable=True, object_info=info)


def accepted(alice: Any, workflow: Any) -> dict[str, Any]:
    """The prompt that is kept for the workers."""
    response = alice.post("/workflows/execute", {"workflow": workflow})
    assert response.status_code == 200, response.content
    prompt: dict[str, Any] = Execution.objects.get(id=response.json()["execution_id"]).graph.prompt
    return prompt


def refused(alice: Any, workflow: Any) -> dict[str, tuple[str, str]]:
    """field -> (code, message) of each mistake."""
    response = alice.post("/workflows/execute", {"workflow": workflow})
    body = assert_error(response, 400, "validation_error")
    return {detail["field"]: (detail["code"], detail["message"]) for detail in body["details"]}
