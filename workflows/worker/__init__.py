"""What runs in a GPU worker: its slots, one execution on one ComfyUI, storing outputs, maintenance.

May import: queue and everything below it; not streaming, api or admin. Begin with `slots` (who takes work),
then `runner` (one execution from submission to ComfyUI until it has ended) and `finalize` (outputs, the end).
"""
