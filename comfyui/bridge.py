"""The routes that our custom node `comfyui_bridge` adds to a ComfyUI, typed.

    bridge = Bridge(client)
    info = bridge.info()            None: this ComfyUI has no bridge
    if info: bridge.memory()

Without a bridge, `files` uses ComfyUI's own routes, and the rest raises `NoBridge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from comfyui import _parsing, shared_folders
from comfyui.client import Answer, Client
from comfyui.errors import ComfyUIError
from comfyui.shared_folders import SharedFolder
from comfyui.types import OutputFile

SUPPORTED = 3  # version of the routes; since 3 each prompt has folders of its own


class NoBridge(ComfyUIError):
    """This ComfyUI does not have our custom node."""


@dataclass(frozen=True)
class BridgeInfo:
    version: int
    boot_id: str  # changes whenever ComfyUI restarts
    folders: dict[str, SharedFolder]  # "output" and "temp", if they can be read by this process


@dataclass(frozen=True)
class ModelInMemory:
    """One model (a checkpoint is up to three). `loaded_bytes` are on the device; 0: it is in RAM only."""

    class_name: str
    files: list[tuple[str, str]]  # (folder, name); empty if unknown
    device: str
    size_bytes: int
    loaded_bytes: int
    in_use: bool


@dataclass(frozen=True)
class Memory:
    boot_id: str
    models: list[ModelInMemory]
    total_bytes: int  # of the device
    free_bytes: int
    process_bytes: int  # resident size of ComfyUI's process


@dataclass(frozen=True)
class ModelFile:
    folder: str  # ComfyUI's name: "checkpoints", "loras", ...
    name: str  # with its subfolders, "/" between them
    path: str
    size: int
    changed: float  # seconds since the epoch


@dataclass(frozen=True)
class ModelFolder:
    name: str
    places: list[str]  # directories, in the order in which they are searched
    files: list[ModelFile]


@dataclass(frozen=True)
class Leftovers:
    """Each by its name, with the seconds since its last change."""

    marks: dict[str, float]  # `<execution id>.<attempt>`
    inputs: dict[str, float]  # names below our folder in the input folder
    history: dict[str, float]  # prompt ids


class Bridge:
    def __init__(self, client: Client) -> None:
        self._client = client

    def info(self) -> BridgeInfo | None:
        """None if there is no bridge, or one of an incompatible version."""
        answer = self._client.get("/comfyserve/bridge")
        if answer.status == 404:
            return None
        info = self._client.parse(answer, _info)
        return info if info.version == SUPPORTED else None

    def memory(self) -> Memory:
        return self._client.parse(self._there(self._client.get("/comfyserve/memory")), _memory)

    def files(self) -> list[ModelFolder]:
        """All model files. Without a bridge from ComfyUI's own routes: one request for each folder."""
        answer = self._client.get("/comfyserve/files")
        if answer.status == 404:
            return self._files_without()
        return self._client.parse(answer, _folders)

    def _files_without(self) -> list[ModelFolder]:
        answer = self._client.get("/experiment/models")
        if answer.status == 404:
            raise NoBridge("this ComfyUI has neither our bridge nor routes that list model files")
        folders = self._client.parse(answer, _stock_folders)
        found = []
        for name, places in folders:
            listed = self._client.get(f"/experiment/models/{quote(name, safe='')}")
            files = [] if listed.status == 404 else self._client.parse(listed, _stock_files)
            found.append(
                ModelFolder(name, places, [file for each in files if (file := _placed(name, places, each))])
            )
        return found

    def header(self, *, folder: str, name: str) -> dict[str, Any] | None:
        """The header of a safetensors file; None if there is none, or no bridge to read it."""
        query = urlencode({"folder": folder, "name": name})
        answer = self._client.get(f"/comfyserve/header?{query}")
        return None if answer.status == 404 else self._client.parse(answer, _parsing.mapping)

    def unload(self, *, folder: str, name: str, drop: bool, wait: float = 5.0) -> bool:
        """Unload one model from the device, with `drop` also from RAM.

        False if a prompt still runs after `wait` seconds; it is unloaded when that has ended.
        """
        body = {"folder": folder, "name": name, "drop": drop, "wait": wait}
        answer = self._there(self._client.post("/comfyserve/unload", body))
        return self._client.parse(answer, lambda raw: bool(raw["status"] == "unloaded"))

    def leftovers(self) -> Leftovers:
        """What executions left there."""
        answer = self._there(self._client.get("/comfyserve/leftovers"))
        return self._client.parse(answer, _leftovers)

    def use(self, name: str, *, older: float) -> int | None:
        """The size of an input below our folder, None if missing. Resets its modification time if it is
        older than `older` seconds.
        """
        answer = self._there(self._client.post("/comfyserve/use", {"input": name, "older": older}))
        return self._client.parse(answer, lambda raw: None if raw["size"] is None else int(raw["size"]))

    def delete(
        self,
        *,
        marks: Sequence[str] = (),
        inputs: Sequence[str] = (),
        files: Sequence[OutputFile] = (),
        since: float | None = None,
        until: float | None = None,
    ) -> int:
        """Delete files with these marks in output, temp and input: inputs by their name below our folder,
        unless a running or waiting prompt uses them; output and temp files only if last written between
        `since` and `until` (seconds since the epoch, ComfyUI's clock; without `until` any time later).
        Returns the number of files.
        """
        body = {
            "marks": list(marks),
            "inputs": list(inputs),
            "files": [
                {"filename": file.filename, "subfolder": file.subfolder, "type": file.type} for file in files
            ],
            "since": since,
            "until": until,
        }
        answer = self._there(self._client.post("/comfyserve/delete", body))
        return self._client.parse(answer, lambda raw: int(raw["files"]))

    @staticmethod
    def _there(answer: Answer) -> Answer:
        if answer.status in (404, 405):
            raise NoBridge("this ComfyUI does not have our bridge (comfyui_bridge in custom_nodes)")
        return answer


def _info(raw: Any) -> BridgeInfo:
    raw = _parsing.mapping(raw)
    folders = _folders_of(raw) if shared_folders.is_own_kernel(str(raw.get("kernel"))) else {}
    return BridgeInfo(version=int(raw["version"]), boot_id=str(raw["boot"]), folders=folders)


def _folders_of(raw: dict[str, Any]) -> dict[str, SharedFolder]:
    return {
        kind: SharedFolder(str(folder["path"]), int(folder["device"]), int(folder["inode"]))
        for kind, folder in _parsing.mapping(raw["folders"]).items()
        if shared_folders.is_local(str(folder["path"]))
    }


def _memory(raw: Any) -> Memory:
    raw = _parsing.mapping(raw)
    devices = [_parsing.mapping(device) for device in raw["devices"]]
    return Memory(
        boot_id=str(raw["boot"]),
        models=[_in_memory(each) for each in (*raw["loaded"], *raw["held_in_ram"])],
        total_bytes=sum(int(device["total_bytes"]) for device in devices),
        free_bytes=sum(int(device["free_bytes"]) for device in devices),
        process_bytes=int(raw["process_bytes"]),
    )


def _leftovers(raw: Any) -> Leftovers:
    raw = _parsing.mapping(raw)
    marks, inputs, history = (
        {str(name): float(age) for name, age in _parsing.mapping(raw[kind]).items()}
        for kind in ("marks", "inputs", "history")
    )
    return Leftovers(marks=marks, inputs=inputs, history=history)


def _in_memory(raw: Any) -> ModelInMemory:
    return ModelInMemory(
        class_name=str(raw["class"]),
        files=[(str(file["folder"]), str(file["name"])) for file in raw["files"]],
        device=str(raw["device"]),
        size_bytes=int(raw["size_bytes"]),
        loaded_bytes=int(raw.get("loaded_bytes", 0)),
        in_use=bool(raw.get("in_use", False)),
    )


def _folders(raw: Any) -> list[ModelFolder]:
    return [
        ModelFolder(
            name,
            [str(place) for place in folder["places"]],
            [_file(name, *file) for file in folder["files"]],
        )
        for name, folder in _parsing.mapping(raw["folders"]).items()
    ]


def _file(folder: str, name: Any, path: Any, size: Any, changed: Any) -> ModelFile:
    return ModelFile(folder, str(name).replace("\\", "/"), str(path), int(size), float(changed))


def _stock_folders(raw: Any) -> list[tuple[str, list[str]]]:
    return [(str(each["name"]), [str(place) for place in each["folders"]]) for each in raw]


def _stock_files(raw: Any) -> list[dict[str, Any]]:
    return [_parsing.mapping(each) for each in raw]


def _placed(folder: str, places: list[str], raw: dict[str, Any]) -> ModelFile | None:
    """A file as reported by ComfyUI's own route; None if incomplete."""
    name, index = str(raw["name"]).replace("\\", "/"), int(raw.get("pathIndex", 0))
    if index >= len(places):
        return None
    path = f"{places[index].rstrip('/')}/{name}"
    return ModelFile(folder, name, path, int(raw.get("size", 0)), float(raw.get("modified", 0.0)))
