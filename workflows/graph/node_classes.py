"""The node classes reported by the fleet's ComfyUIs, and which of ComfyUI's own access files.

Every stock class that takes a path, a file or a folder is listed in CONFINED, DENIED or HARMLESS. An unlisted
one, perhaps of a newer ComfyUI, is denied until an operator allows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workflows.models import ObjectInfo

from . import node_info

# They turn a channel of 16 bits or floats into white or black: see `files.pictures.deep_as_png`.
READ_EIGHT_BITS = frozenset({"LoadImage", "LoadImageMask"})
CUSTOM = "custom_nodes"  # ComfyUI's package for nodes that are not part of ComfyUI itself

_BY_PATH = "it reads or writes files by their path"
_MODELS = "it saves models for all users"
_TRAINS = "it trains models"
_REGEX = "a regular expression can block ComfyUI for all users"
_REMOTE = "it sends data to a service on the internet"
UNKNOWN = "it takes a path, and no operator has decided yet who may use it"

DENIED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder", "LoadTrainingDataset",
            "SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder", "SaveTrainingDataset",
            "LoadImageSetFromFolderNode", "LoadImageSetNode", "LoadImageTextSetFromFolderNode",
        ),
        _BY_PATH,
    ),
    **dict.fromkeys(
        (
            "CheckpointSave", "CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLoRA", "SaveLoRANode",
            "ImageOnlyCheckpointSave",
        ),
        _MODELS,
    ),
    **dict.fromkeys(("TrainLoraNode", "LossGraphNode", "LoraModelLoader"), _TRAINS),
    **dict.fromkeys(("RegexMatch", "RegexExtract", "RegexReplace"), _REGEX),
}  # fmt: skip

_ECHO = "without ComfyServe's bridge in ComfyUI it can access the files of other users"
WITHOUT_BRIDGE: Mapping[str, str] = dict.fromkeys(("Load3D", "Preview3D", "WebcamCapture"), _ECHO)

# They only read files placed for their prompt, and write to its own folder.
CONFINED = frozenset({
    "LoadImage", "LoadImageMask", "LoadImageOutput", "LoadLatent", "LoadVideo", "LoadAudio", "RecordAudio",
    "Load3D", "WebcamCapture", "Preview3D", "MaskPreview", "PreviewImage", "PreviewAudio",
    "SaveImage", "SaveLatent", "SaveAnimatedPNG", "SaveAnimatedWEBP", "SaveSVGNode", "SaveGLB", "SaveVideo",
    "SaveWEBM", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus",
})  # fmt: skip

# Their inputs only look like paths: a choice from a list, or a text.
HARMLESS = frozenset({"DiffusersLoader", "ImageStitch", "AddTextPrefix", "PreviewAny", "CheckpointLoader"})

# File inputs without ComfyUI's upload marker; USUAL has all common ones, for use until a worker has reported.
UNMARKED: Mapping[str, frozenset[str]] = {
    "LoadLatent": frozenset({"latent"}),
    "WebcamCapture": frozenset({"image"}),
    "OpenAIInputFiles": frozenset({"file"}),
    "GeminiInputFiles": frozenset({"file"}),
}
USUAL: Mapping[str, frozenset[str]] = {
    **UNMARKED,
    "LoadImage": frozenset({"image"}),
    "LoadImageMask": frozenset({"image"}),
    "LoadImageOutput": frozenset({"image"}),
    "LoadAudio": frozenset({"audio"}),
    "LoadVideo": frozenset({"file"}),
    "Load3D": frozenset({"model_file"}),
}
# Files inside an object input: see `nested_inputs`.
NESTED: Mapping[str, frozenset[str]] = {
    "Load3D": frozenset({"image.image", "image.mask", "image.normal", "image.recording"}),
}
_PATHLIKE = re.compile(r"path|folder|dir|file|prefix|regex", re.IGNORECASE)


@dataclass(frozen=True)
class NodeClass:
    name: str
    module: str  # "nodes", "comfy_extras.nodes_video", "custom_nodes.something"
    title: str
    category: str
    files: frozenset[str]  # inputs that take a file
    touches_files: bool  # judged by the names and types of its inputs, or because it is an output node

    @property
    def is_custom(self) -> bool:
        return self.module.partition(".")[0] == CUSTOM

    @property
    def calls_a_service(self) -> bool:
        return self.module.partition(".")[0] == "comfy_api_nodes"

    @property
    def reason_to_deny(self) -> str | None:
        """Why it is denied by default; None if it is allowed."""
        if self.is_custom:
            return None
        if self.calls_a_service:
            return _REMOTE
        if self.name in DENIED:
            return DENIED[self.name]
        is_known = self.name in CONFINED or self.name in HARMLESS
        return UNKNOWN if self.touches_files and not is_known else None


def known(class_type: str) -> list[NodeClass]:
    """The class as defined by each ComfyUI of the fleet; empty if none has it."""
    tables = (table_of(digest) for digest in node_info.cached_digests())
    return [table[class_type] for table in tables if class_type in table]


def all_known() -> dict[str, NodeClass]:
    """Every class of the fleet by name; if ComfyUIs differ, the first definition."""
    found: dict[str, NodeClass] = {}
    for digest in node_info.cached_digests():
        for name, node_class in table_of(digest).items():
            found.setdefault(name, node_class)
    return dict(sorted(found.items()))


@lru_cache(maxsize=8)
def table_of(digest: str) -> dict[str, NodeClass]:
    """The node classes of a ComfyUI, by the digest of its object_info. Cached per process."""
    body = ObjectInfo.objects.filter(digest=digest).values_list("body", flat=True).first() or {}
    return {name: read(name, about) for name, about in body.items()}


def read(name: str, about: Any) -> NodeClass:
    """Read one class from ComfyUI's `/object_info`."""
    about = about if isinstance(about, dict) else {}
    inputs = list(_inputs(about))
    marked = {input_ for input_, _, options in inputs if _is_upload(options)}
    return NodeClass(
        name=name,
        module=str(about.get("python_module") or "nodes"),
        title=str(about.get("display_name") or name),
        category=str(about.get("category") or ""),
        files=frozenset(marked | UNMARKED.get(name, frozenset())),
        touches_files=bool(about.get("output_node"))
        or name in UNMARKED
        or any(_is_upload(options) or _looks_like_path(input_, kind) for input_, kind, options in inputs),
    )


def _inputs(about: dict[str, Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield (name, type, options) of each input; a list of choices has the type COMBO."""
    sections = about.get("input") or {}
    for section in ("required", "optional"):
        for name, definition in (sections.get(section) or {}).items():
            kind = definition[0] if isinstance(definition, list) and definition else definition
            options = definition[1] if isinstance(definition, list) and len(definition) > 1 else None
            kind = "COMBO" if isinstance(kind, list) else kind
            yield name, kind, options if isinstance(options, dict) else {}


def _is_upload(options: dict[str, Any]) -> bool:
    """ComfyUI marks upload inputs for its editor: `image_upload`, `audio_upload`, `video_upload` etc."""
    return any(key.endswith("_upload") and value is True for key, value in options.items())


def _looks_like_path(name: str, kind: Any) -> bool:
    return kind in ("LOAD_3D", "WEBCAM") or (kind in ("STRING", "COMBO") and bool(_PATHLIKE.search(name)))
