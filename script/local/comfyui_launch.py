"""Start ComfyUI with whatever torch and torchvision are there.

    comfyui_launch.py PATH/TO/ComfyUI/main.py [ComfyUI's own options]

Three things differ from starting main.py itself. Byte-code is written, also where the environment says
not to, since every later start is 10 s faster for it. The garbage collector runs more rarely: a third of a
start was its looking at modules that stay (ComfyUI itself has it collect after its prompts). And a
torchvision whose compiled half does not fit torch's build (a CPU torch from elsewhere) is let pass: nothing
in ComfyUI needs its operators on the CPU.
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
gc.set_threshold(100_000, 50, 50)  # objects, and runs of the next younger generation

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
