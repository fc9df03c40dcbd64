"""Files of ComfyUI's own editor, converted into prompts on the server.

`to_prompt` is pure: it is given the file and ComfyUI's `object_info`.
"""

from __future__ import annotations

from .conversion import Conversion, to_prompt

__all__ = ["Conversion", "to_prompt"]
