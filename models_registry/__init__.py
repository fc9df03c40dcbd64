"""Model files on disk and in memory.

May import: accounts, files, comfyserve, comfyui. Start with `models`, then `commands` (requests to workers)
and `model_agent` (which carries them out, in a GPU worker).
"""
