"""The workflow graph: accepted formats, the files and models it references, and readable ComfyUI errors.

May import: metrics, notify, models. Start with `parsing`, which converts each format to one ComfyUI prompt.
"""
