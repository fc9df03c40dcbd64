"""The workflow graph: accepted formats, the files and models it references, and readable ComfyUI errors.

May import: models, metrics. Start with `parsing`, which converts each format to one ComfyUI prompt.
"""
