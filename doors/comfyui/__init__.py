"""ComfyUI's own HTTP routes, for software that was written for a ComfyUI: one user's view of this service.

Each route maps onto what the REST API calls: the same queue, limits, permissions and audit log.

prompts     submit, queue, history, interrupt
jobs        queue and history together, as newer versions of ComfyUI show them
files       uploads and results
userdata    settings and files that an editor keeps on the server
machine     what the GPU workers have: nodes and models
websocket   `/ws`; its messages are in `messages`
"""
