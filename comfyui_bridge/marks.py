"""Names by which ComfyServe's folders and files are known in ComfyUI's folders."""

from __future__ import annotations

import re

# The folder of one attempt: <execution id>.<attempt>
MARK = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\.\d{1,9}")
INPUT = re.compile(r"[0-9a-f]{64}(\.[a-z0-9]{1,8})?")  # a placed input: the hash of its content
INPUTS = "comfyserve"  # where they lie, below the input folder
