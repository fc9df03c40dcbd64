"""Converts files of ComfyUI's own editor to prompts on the server.

Start with `conversion.to_prompt`, which does no I/O: it is given the file and `object_info`.
"""
