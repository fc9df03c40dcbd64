"""The fleet's nodes and models, as one ComfyUI would report them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from rest_framework.request import Request
from rest_framework.response import Response

from comfyserve.api.errors import NotFound
from models_registry import usage
from workflows.graph import file_inputs, object_info

from .errors import ComfyUIView

# Which input of which loader lists the models of a folder.
FOLDERS = {
    "checkpoints": ("CheckpointLoaderSimple", "ckpt_name"),
    "loras": ("LoraLoader", "lora_name"),
    "vae": ("VAELoader", "vae_name"),
    "controlnet": ("ControlNetLoader", "control_net_name"),
    "upscale_models": ("UpscaleModelLoader", "model_name"),
    "clip_vision": ("CLIPVisionLoader", "clip_name"),
    "diffusion_models": ("UNETLoader", "unet_name"),
    "text_encoders": ("CLIPLoader", "clip_name"),
    "style_models": ("StyleModelLoader", "style_model_name"),
    "hypernetworks": ("HypernetworkLoader", "hypernetwork_name"),
}

EMBEDDINGS = "embeddings"  # no loader lists them: prompts name them


class ObjectInfoView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        fleet = object_info.fleet()
        return Response({name: _without_files(name, about) for name, about in fleet.items()})


class OneObjectInfoView(ComfyUIView):
    def get(self, request: Request, class_type: str) -> Response:  # noqa: ARG002
        """Empty for a class that no worker has, as in ComfyUI."""
        about = object_info.fleet().get(class_type)
        return Response({} if about is None else {class_type: _without_files(class_type, about)})


class ModelsView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response([*FOLDERS, EMBEDDINGS])


class FolderView(ComfyUIView):
    def get(self, request: Request, folder: str) -> Response:  # noqa: ARG002
        return Response(_names(folder))


class EmbeddingsView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Names without their extensions, as prompts take them."""
        return Response([name.rpartition(".")[0] or name for name in _names(EMBEDDINGS)])


class ModelFoldersView(ComfyUIView):
    """`/experiment/models`: the front end's library of models."""

    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response([{"name": name, "folders": []} for name in (*FOLDERS, EMBEDDINGS)])


class ModelFolderView(ComfyUIView):
    def get(self, request: Request, folder: str) -> Response:  # noqa: ARG002
        return Response([{"name": name, "pathIndex": 0} for name in _names(folder)])


def _names(folder: str) -> list[Any]:
    """The names of the models in the folder, on any worker. NotFound for an unknown folder."""
    if folder == EMBEDDINGS:
        return usage.embeddings()
    if folder not in FOLDERS:
        raise NotFound(f"There is no folder {folder[:100]}")
    class_type, name = FOLDERS[folder]
    return _options(object_info.fleet().get(class_type), name)


class SystemStatsView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Figures of the service: its GPUs are shared, so single machines are not shown."""
        system = {"os": "posix", "comfyui_version": "0.3.75", "python_version": "", "argv": []}
        device = {"name": "fleet", "type": "cuda", "index": 0, "vram_total": 0, "vram_free": 0}
        return Response({"system": system, "devices": [device]})


class FeaturesView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response(features())


class EmptyListView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response([])


class EmptyObjectView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        return Response({})


class FreeView(ComfyUIView):
    def post(self, request: Request) -> Response:  # noqa: ARG002
        """Does nothing: the service manages the GPUs' memory."""
        return Response()


def features() -> dict[str, Any]:
    """Also the websocket's reply to `feature_flags`."""
    return {"supports_preview_metadata": True, "max_upload_size": settings.MAX_UPLOAD_BYTES}


def _without_files(class_type: str, about: Any) -> Any:
    """The class without the files in ComfyUI's input folder, which belong to all users."""
    own = file_inputs.taking_files(class_type)
    given = about.get("input") if isinstance(about, dict) else None
    if not own or not isinstance(given, dict):
        return about
    inputs = {
        part: {name: _without_options(spec) if name in own else spec for name, spec in specs.items()}
        if isinstance(specs, dict)
        else specs
        for part, specs in given.items()
    }
    return {**about, "input": inputs}


def _without_options(spec: Any) -> Any:
    if not isinstance(spec, list) or not spec:
        return spec
    first: Any = [] if isinstance(spec[0], list) else spec[0]
    return [first, *({**each, "options": []} if _has_options(each) else each for each in spec[1:])]


def _has_options(spec: Any) -> bool:
    return isinstance(spec, dict) and "options" in spec


def _options(about: Mapping[str, Any] | None, name: str) -> list[Any]:
    spec = ((about or {}).get("input") or {}).get("required", {}).get(name)
    if not isinstance(spec, list) or not spec:
        return []
    if isinstance(spec[0], list):
        return spec[0]
    return list(spec[1].get("options", [])) if len(spec) > 1 and _has_options(spec[1]) else []
