"""Start ComfyUI with the installed torch and torchvision.

    comfyui_launch.py PATH/TO/ComfyUI/main.py [ComfyUI's own options]

It differs from main.py in three ways. Bytecode is written even if the environment disables it, which makes
every later start 10 s faster. The garbage collector runs less often: it spent a third of the start on modules
that stay (ComfyUI itself collects after its prompts). And a torchvision whose compiled half does not match
torch's build (a CPU torch from elsewhere) is tolerated: nothing in ComfyUI needs its operators on the CPU.
"""

from __future__ import annotations

import gc
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.dont_write_bytecode = False
gc.set_threshold(100_000, 50, 50)  # objects, and collections of the next younger generation

import torch  # noqa: E402

_register_fake = torch.library.register_fake


def _tolerant(op: Any, *args: Any, **options: Any) -> Any:
    if not (isinstance(op, str) and op.startswith("torchvision::")):
        return _register_fake(op, *args, **options)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            _register_fake(op, *args, **options)(function)
        except RuntimeError:
            pass  # the operator does not exist in this build
        return function

    return register


torch.library.register_fake = _tolerant
_main = Path(sys.argv[1]).resolve()
sys.argv = [str(_main), *sys.argv[2:]]
sys.path[0] = str(_main.parent)
os.chdir(_main.parent)
runpy.run_path(str(_main), run_name="__main__")
