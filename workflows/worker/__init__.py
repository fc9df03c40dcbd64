"""Code that runs in a GPU worker: its slots, running an execution on ComfyUI, storing outputs, maintenance.

May import: queue and everything below it; not streaming, api or admin. Start with `slots` (which claims
work), then `runner` (one execution from submission to ComfyUI until it has ended) and `finalize` (outputs and
the terminal status).
"""
