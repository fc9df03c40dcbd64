"""The workflow graph: accepted formats, files and models that it names, and ComfyUI's errors in plain words.

May import: models, metrics. Begin with `parsing`, which turns every accepted format into one ComfyUI prompt.
"""
