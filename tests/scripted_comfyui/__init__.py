"""A scripted ComfyUI for tests: faults and loads that a real one cannot be made to show. Needs aiohttp.

    with ScriptedComfyUI() as comfyui: ...

Its classes: EmptyImage, SaveImage, PreviewAny as the stock ones seen from outside; Sleep (seconds, steps),
Fail (message), Stall (until interrupted), Gate (until the test sets `gate`),
Deaf (seconds, not interruptible), Loop (times); more through `classes`.
"""

from __future__ import annotations

from tests.scripted_comfyui.faults import Faults, Request
from tests.scripted_comfyui.nodes import PNG, NodeClass, Run
from tests.scripted_comfyui.server import ScriptedComfyUI

__all__ = ["PNG", "Faults", "NodeClass", "Request", "Run", "ScriptedComfyUI"]
