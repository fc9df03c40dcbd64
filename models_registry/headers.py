"""Metadata from the header of a safetensors file: architecture, base model, resolution, precision.

Nothing is loaded, and pickles are never opened. Explicit metadata (`modelspec.*`, `ss_*`) takes precedence
over what tensor names suggest.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MAX_HEADER = 100_000_000  # bytes; the safetensors library's own limit
LONGEST_VALUE = 65_536  # characters; embedded pictures and long lists of tags are omitted
PRECISIONS = {
    "F64": "fp64", "F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8_e4m3", "F8_E5M2": "fp8_e5m2",
    "I8": "int8", "U8": "uint8",
}  # fmt: skip

# Architecture -> (base model, usual resolution)
BASES = {
    "stable-diffusion-v1": ("sd-1.5", "512x512"),
    "stable-diffusion-v2": ("sd-2", "768x768"),
    "stable-diffusion-xl-v1": ("sdxl-1.0", "1024x1024"),
    "stable-diffusion-v3": ("sd-3", "1024x1024"),
    "flux-1": ("flux.1", "1024x1024"),
}
# Keys unique to one architecture; the first match decides.
SIGNS = (
    ("stable-diffusion-v3", ("joint_blocks.",)),
    ("flux-1", ("double_blocks.", "lora_unet_double_blocks_", "single_transformer_blocks.")),
    ("stable-diffusion-xl-v1", ("conditioner.embedders.", "lora_te2_", "label_emb.")),
    ("stable-diffusion-v2", ("cond_stage_model.model.",)),
    (
        "stable-diffusion-v1",
        ("cond_stage_model.transformer.", "lora_te_text_model_", "diffusion_model.input_blocks."),
    ),
)  # fmt: skip
# Spellings of other tools, in modelspec.architecture and ss_base_model_version.
SPELLINGS = (
    ("stable-diffusion-xl", "stable-diffusion-xl-v1"), ("sdxl", "stable-diffusion-xl-v1"),
    ("stable-diffusion-v3", "stable-diffusion-v3"), ("sd3", "stable-diffusion-v3"),
    ("flux", "flux-1"),
    ("stable-diffusion-v2", "stable-diffusion-v2"), ("sd_v2", "stable-diffusion-v2"),
    ("stable-diffusion-v1", "stable-diffusion-v1"), ("sd_v1", "stable-diffusion-v1"),
)  # fmt: skip


class Malformed(Exception):
    """Not a valid safetensors file; the text says why."""


def read(path: Path) -> dict[str, Any]:
    """The header of the file, checked against its size. Malformed if they do not match."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise Malformed(_what_it_is(start) or "it is not a safetensors file")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise Malformed("its header is invalid") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise Malformed(
            f"it is {'cut short' if size < expected else 'too long'}: {size} bytes, not {expected}"
        )
    return dict(header)


def _what_it_is(start: bytes) -> str | None:
    """Common wrong results of a download."""
    if start.lstrip()[:1] == b"<":
        return "it is a web page, not a model: the source may need a token, or the URL is wrong"
    if start[:1] == b"{":
        return "it is a JSON text, not a model: the source may have returned an error"
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return "it is a pickle, not a safetensors file"
    return None


def describe(header: Mapping[str, Any]) -> dict[str, Any]:
    """The `metadata` of a model. Omits what the header does not reveal."""
    given = header.get("__metadata__")
    metadata = {str(key): value for key, value in given.items()} if isinstance(given, dict) else {}
    names = [name for name in header if name != "__metadata__"]
    architecture = _from_metadata(metadata) or _from_names(names)
    base, usual = BASES.get(architecture or "", (None, None))
    found = {
        "architecture": architecture,
        "base_model": base,
        "resolution": metadata.get("modelspec.resolution") or _trained_at(metadata) or usual,
        "precision": _precision(header),
    }
    extra = {
        key: value
        for key, value in metadata.items()
        if key.startswith(("modelspec.", "ss_")) and len(str(value)) <= LONGEST_VALUE
    }
    return {key: value for key, value in found.items() if value} | extra


def _from_metadata(metadata: Mapping[str, Any]) -> str | None:
    for key in ("modelspec.architecture", "ss_base_model_version"):
        text = str(metadata.get(key, "")).lower()
        for spelling, architecture in SPELLINGS:
            if text.startswith(spelling):
                return architecture
    return str(metadata["modelspec.architecture"]) if metadata.get("modelspec.architecture") else None


def _from_names(names: Iterable[str]) -> str | None:
    names = list(names)
    for architecture, signs in SIGNS:
        if any(sign in name for name in names for sign in signs):
            return architecture
    return None


def _trained_at(metadata: Mapping[str, Any]) -> str | None:
    """ss_resolution is "(512, 512)" or "512,512"."""
    numbers = [part.strip(" ()") for part in str(metadata.get("ss_resolution", "")).split(",")]
    return "x".join(numbers) if len(numbers) == 2 and all(part.isdecimal() for part in numbers) else None


def _precision(header: Mapping[str, Any]) -> str | None:
    """The data type of most of its values."""
    counted: Counter[str] = Counter()
    for name, tensor in header.items():
        if name != "__metadata__" and isinstance(tensor, dict) and isinstance(tensor.get("shape"), list):
            size = 1
            for extent in tensor["shape"]:
                size *= int(extent)
            counted[str(tensor.get("dtype"))] += size
    if not counted:
        return None
    kind = counted.most_common(1)[0][0]
    return PRECISIONS.get(kind, kind.lower())
