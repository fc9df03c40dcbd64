"""A node that loads models onto the device and has no output: used to preload a model.

Loading happens in a prompt, since only a prompt's loader node leaves its result in ComfyUI's node cache,
where later prompts find it.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management as mm


class ComfyServeWarm:
    DESCRIPTION = "Loads models into memory without producing an output."
    CATEGORY = "ComfyServe"
    RETURN_TYPES = ()
    FUNCTION = "warm"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802  (ComfyUI's name)
        kinds = {
            "model": "MODEL",
            "clip": "CLIP",
            "vae": "VAE",
            "control_net": "CONTROL_NET",
            "clip_vision": "CLIP_VISION",
        }
        return {"required": {}, "optional": {name: (kind,) for name, kind in kinds.items()}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:  # noqa: N802
        return float("nan")  # never cached: the models may have left the device since

    def warm(
        self,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        control_net: Any = None,
        clip_vision: Any = None,
    ) -> dict[str, Any]:
        patchers = [model] if model is not None else []
        patchers += [part.patcher for part in (clip, vae, clip_vision) if part is not None]
        patchers += control_net.get_models() if control_net is not None else []
        mm.load_models_gpu(patchers)
        return {"ui": {"text": [type(patcher.model).__name__ for patcher in patchers]}}


NODE_CLASS_MAPPINGS = {"ComfyServeWarm": ComfyServeWarm}
NODE_DISPLAY_NAME_MAPPINGS = {"ComfyServeWarm": "Load into memory (ComfyServe)"}
