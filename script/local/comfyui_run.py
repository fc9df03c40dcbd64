"""Exec a ComfyUI configured for ComfyServe."""

from __future__ import annotations

import os
import sys

from script.local import comfyui, comfyui_install
from script.local.comfyui import ComfyUI
from script.local.paths import data_dir

HELP = """Start a ComfyUI here, as script/serve starts its own: with our bridge, --cache-lru and previews.

It is installed into COMFYUI_DIR (~/.cache/comfyserve/comfyui) if it is not there; its models, inputs, outputs
and custom nodes are in DATA_DIR/comfyui (./var/comfyui). Custom nodes that you put there are loaded.
COMFYUI_TORCH is cuda or cpu: the build of PyTorch to install; by default by whether there is a GPU.

  script/comfyui --listen 0.0.0.0 --port 8188     options go to ComfyUI

Then: COMFYUI_URL=http://this-machine:8188 script/worker gpu"""


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(HELP)
        return
    install = comfyui_install.default_folder()
    comfyui_install.install(install)
    folder = data_dir() / "comfyui"
    program = ComfyUI(
        folder,
        port=8188,
        log=folder / "comfyui.log",
        install=install,
        options=arguments,
        only_our_nodes=False,
    )
    program.prepare()
    sys.stdout.flush()
    os.execve(program.command[0], program.command, comfyui.environment())
