"""The workflow graph: accepted formats, the files and models it references, and readable ComfyUI errors.

May import: models, metrics. Start reading at `parsing`, which converts every accepted format to one ComfyUI
prompt.
"""
