"""ComfyServe's bridge: a custom node for ComfyUI. Put this folder into ComfyUI's `custom_nodes`.

It reports which models this ComfyUI holds in memory and from which files they come, unloads one of them,
lists model files, reads their headers, and deletes files that ComfyServe left. It gives each prompt of
ComfyServe folders of its own, see `confinement`, and sends fewer messages about large workflows, see
`progress_states`. It has no dependencies beyond ComfyUI's.

    GET  /comfyserve/bridge          version, an id that is new with every start of ComfyUI, and its folders
    GET  /comfyserve/memory          models on the device and in RAM, free memory, the process's size
    GET  /comfyserve/files           model files by folder, with path, size and time of change
    GET  /comfyserve/header          ?folder=&name=: the header of a safetensors file
    POST /comfyserve/unload          {folder, name, drop, wait}: off the device; with drop, out of RAM too
    GET  /comfyserve/leftovers       what executions left behind, with its age: marks, inputs, history
    POST /comfyserve/use             {input, older}: its size; refreshes its time if it is older than that
    POST /comfyserve/delete          {marks, inputs, files, since}: delete it from output, temp and input

and the node ComfyServeWarm, which loads its inputs onto the device and has no output.
"""

from __future__ import annotations

from . import confinement, garbage, origins, progress_states

origins.watch()  # before any model is loaded
confinement.confine()  # before any prompt runs
progress_states.limit()
garbage.freeze_at_start()

from . import routes  # noqa: E402, F401  (registers the routes)
from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS  # noqa: E402

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
