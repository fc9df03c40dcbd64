"""For how many of ComfyUI's templates does our conversion give the same prompt as the editor, and how fast?

    python -m benchmarks.editor

Starts a ComfyUI on the CPU, drives its page in Chromium, and compares node by node. Needs the packages of
requirements-dev.txt, a chromium, and PyPI for the templates.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from comfyui import Client
from script.local import comfyui as local_comfyui
from script.local import comfyui_install, ports
from tests.browser import CHROMIUM
from tests.workflows import editor_page
from workflows.graph.editor.conversion import to_prompt


@contextmanager
def _comfyui() -> Iterator[str]:
    """A ComfyUI with stock nodes only."""
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        process = local_comfyui.ComfyUI(where, port=ports.free_port(), log=where / "log", bridge=False)
        comfyui_install.install(process.install)
        process.prepare()
        process.start()
        try:
            process.wait()
            yield process.url
        finally:
            process.stop()


def main() -> None:
    found = editor_page.templates()
    with _comfyui() as url, sync_playwright() as playwright:
        with Client(url) as client:
            known = client.object_info()
        usable = [name for name, file in found.items() if editor_page.classes_in(file) <= known.keys()]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        equal, seconds = 0, []
        with editor_page.editor(browser, url) as page:
            for name in usable:
                differences = editor_page.differences(
                    editor_page.convert(page, found[name]), found[name], known
                )
                begun = time.perf_counter()
                to_prompt(found[name], known)
                seconds.append(time.perf_counter() - begun)
                equal += not differences
                for line in differences[:5]:
                    print(f"{name}: {line}")
        browser.close()
    print(
        f"{equal} of {len(usable)} equal; {len(found) - len(usable)} of {len(found)} need nodes that it lacks. "
        f"Ours takes {sum(seconds) / len(seconds) * 1000:.1f} ms on average, {max(seconds) * 1000:.1f} at most."
    )


if __name__ == "__main__":
    main()
