"""Model types: six have API names of their own, the others are named after ComfyUI's folder."""

from __future__ import annotations

from collections.abc import Iterable

from comfyserve.api.errors import ValidationFailed

FOLDERS = {
    "checkpoint": "checkpoints",
    "lora": "loras",
    "embedding": "embeddings",
    "vae": "vae",
    "controlnet": "controlnet",
    "upscaler": "upscale_models",
}
TYPES = {folder: type_ for type_, folder in FOLDERS.items()}
# ComfyUI's other folders; a ComfyUI may report more.
OTHERS = (
    "audio_encoders", "classifiers", "clip_vision", "diffusion_models", "gligen", "hypernetworks",
    "latent_upscale_models", "model_patches", "photomaker", "style_models", "text_encoders", "vae_approx",
)  # fmt: skip
LEGACY = {"unet": "diffusion_models", "clip": "text_encoders"}  # ComfyUI's older names
PICKLES = (".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl")  # loading one may execute code in it
SAFE = (".safetensors", ".sft", ".gguf")
EXTENSIONS = (*SAFE, *PICKLES)


def type_of(folder: str) -> str:
    """The API's name of a ComfyUI folder."""
    folder = LEGACY.get(folder, folder)
    return TYPES.get(folder, folder)


def folder_of(type_: str) -> str:
    return FOLDERS.get(type_, type_)


def checked(given: str, *, field: str = "model_type", more: Iterable[str] = ()) -> str:
    """The type, also if ComfyUI's folder name was given for it. ValidationFailed for an unknown one.

    `more` are folders that a ComfyUI reported beyond the stock ones.
    """
    type_ = type_of(given)
    known = {*FOLDERS, *OTHERS, *(type_of(folder) for folder in more)}
    if type_ not in known:
        listed = ", ".join([*FOLDERS, *sorted(known - set(FOLDERS))])
        raise ValidationFailed.of(field, f"There is no model type '{given[:50]}'; there are {listed}")
    return type_
