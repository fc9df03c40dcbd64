"""Files of ComfyUI's own editor, converted into prompts on the server.

Begin with `conversion.to_prompt`, which is pure: it is given the file and ComfyUI's `object_info`.
"""
