"""Converts files of ComfyUI's own editor to prompts on the server.

Start reading at `conversion.to_prompt`, which does no I/O: its inputs are the file and ComfyUI's
`object_info`.
"""
