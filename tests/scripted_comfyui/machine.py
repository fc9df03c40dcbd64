"""The hardware that the scripted ComfyUI reports."""

from __future__ import annotations

FEATURES = {"supports_preview_metadata": True, "max_upload_size": 104857600}
GIB = 1024**3
SYSTEM_STATS = {
    "system": {
        "os": "posix",
        "ram_total": 16 * GIB,
        "ram_free": 8 * GIB,
        "comfyui_version": "0.3.75",
        "required_frontend_version": "1.0.0",
        "installed_templates_version": None,
        "required_templates_version": None,
        "python_version": "3.11.0",
        "pytorch_version": "2.0.0",
        "embedded_python": False,
        "argv": ["main.py"],
    },
    "devices": [
        {
            "name": "cpu",
            "type": "cpu",
            "index": None,
            "vram_total": 16 * GIB,
            "vram_free": 8 * GIB,
            "torch_vram_total": 16 * GIB,
            "torch_vram_free": 8 * GIB,
        }
    ],
}
