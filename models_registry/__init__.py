"""Model files on disk and in memory.

May import: accounts, files, comfyserve, comfyui. Begin with `models`, then `commands` (orders to workers) and
`model_agent` (which carries them out, in a GPU worker).
"""
