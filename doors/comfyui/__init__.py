"""ComfyUI's own HTTP routes, for software that was written for a ComfyUI: one user's view of this service.

Each route maps onto what the REST API calls: the same queue, limits, permissions and audit log.
"""
