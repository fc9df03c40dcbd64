"""`/userdata`, `/settings` and `/users`: what ComfyUI's front end and similar clients keep on the server.

As in ComfyUI, the settings are the file `comfy.settings.json` of the user data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from django.http import HttpResponse
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from comfyserve.api import parsers
from comfyserve.api.errors import NotFound, ValidationFailed
from files import user_data
from files.user_data import Info
from workflows.api.views import user_of

from .errors import ComfyUIView

SETTINGS = "comfy.settings.json"
LONGEST_SETTING_ID = 200
MOVE = "/move/"
# All other files are sent as bytes: none may run in a browser under our address.
CONTENT_TYPES = {".json": "application/json", ".txt": "text/plain; charset=utf-8", ".css": "text/css"}


class UsersView(ComfyUIView):
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Respond as a ComfyUI with one user: the key determines whose data it is."""
        return Response({"storage": "server", "migrated": True})

    def post(self, request: Request) -> Response:  # noqa: ARG002
        return Response({"error": "Accounts are made with POST /auth/register"}, status=400)


# -- files -----------------------------------------------------------------------------------------------
class ListView(ComfyUIView):
    def get(self, request: Request) -> Response:
        """Paths relative to `dir`; with `full_info` objects, with `split` lists."""
        query = request.query_params
        if not query.get("dir"):
            raise ValidationFailed.of("dir", "'dir' is required")
        folder = user_data.clean_path(query["dir"])
        found = user_data.listed(user_of(request), folder=folder)
        if not found:
            raise NotFound(f"There is no directory {folder}")
        files = [(_relative(each.path, folder), each) for each in found]
        if not _is_true(query, "recurse"):
            files = [(path, each) for path, each in files if "/" not in path]
        if _is_true(query, "full_info"):
            return Response([_info(each, path) for path, each in files])
        if _is_true(query, "split"):
            return Response([[path, *path.split("/")] for path, _ in files])
        return Response([path for path, _ in files])


class TreeView(ComfyUIView):
    def get(self, request: Request) -> Response:
        """Folders and files in `path` and below, folders first; paths are relative to the user's root."""
        folder = user_data.clean_path(request.query_params.get("path", ""))
        found = user_data.listed(user_of(request), folder=folder)
        if folder and not found:
            raise NotFound(f"There is no directory {folder}")
        parents = {str(parent) for each in found for parent in PurePosixPath(each.path).parents}
        folders = [path for path in parents - {"."} if not folder or path.startswith(f"{folder}/")]
        shown = [{"name": _name(path), "path": path, "type": "directory"} for path in folders] + [
            {
                "name": _name(each.path),
                "path": each.path,
                "type": "file",
                "size": each.size,
                "modified": each.modified_at.timestamp(),
            }
            for each in found
        ]
        return Response(sorted(shown, key=lambda row: (row["type"] != "directory", str(row["name"]).lower())))


class FileView(ComfyUIView):
    parser_classes: list[type[BaseParser]] = []  # the body is the file's content, whatever its type

    def get(self, request: Request, path: str) -> HttpResponse:
        path = user_data.clean_path(path)
        content = user_data.read(user_of(request), path)
        kind = CONTENT_TYPES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")
        headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
        return HttpResponse(content, content_type=kind, headers=headers)

    def post(self, request: Request, path: str) -> Response:
        """Write the body; or rename, at `{file}/move/{dest}`, which has none."""
        user, content = user_of(request), request._request.body
        overwrite = request.query_params.get("overwrite", "true") != "false"
        source, move, target = path.rpartition(MOVE)
        if move and not content:
            source, target = user_data.clean_path(source), user_data.clean_path(target)
            made = user_data.move(user, source, _require_name(target), overwrite=overwrite)
        else:
            made = user_data.write(
                user, _require_name(user_data.clean_path(path)), content, overwrite=overwrite
            )
        return Response(_info(made, made.path) if _is_true(request.query_params, "full_info") else made.path)

    def delete(self, request: Request, path: str) -> Response:
        user_data.delete(user_of(request), user_data.clean_path(path))
        return Response(status=204)


def _require_name(path: str) -> str:
    if not path:
        raise ValidationFailed.of("file", "The file must have a name")
    return path


def _info(each: Info, path: str) -> dict[str, Any]:
    created, modified = each.created_at.timestamp(), each.modified_at.timestamp()
    return {"path": path, "size": each.size, "modified": modified, "created": created}


def _relative(path: str, folder: str) -> str:
    return path.removeprefix(f"{folder}/") if folder else path


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _is_true(query: Mapping[str, Any], name: str) -> bool:
    return str(query.get(name, "")).lower() == "true"


# -- settings --------------------------------------------------------------------------------------------
class SettingsView(ComfyUIView):
    def get(self, request: Request) -> Response:
        return Response(_settings(user_of(request)))

    def post(self, request: Request) -> Response:
        """Set the given settings; all others stay."""
        if not isinstance(request.data, dict):
            raise ValidationFailed.of("body", "The body must be a JSON object", "INVALID_TYPE")
        _set(user_of(request), dict(request.data))
        return Response()


class SettingView(ComfyUIView):
    def get(self, request: Request, name: str) -> HttpResponse:
        """Null if it was never set."""
        value = _settings(user_of(request)).get(name)
        return HttpResponse(json.dumps(value), content_type="application/json")  # a Response of None is empty

    def post(self, request: Request, name: str) -> Response:
        _set(user_of(request), {name: request.data})
        return Response()


def _settings(user: User) -> dict[str, Any]:
    try:
        return _parsed(user_data.read(user, SETTINGS))
    except NotFound:
        return {}


def _set(user: User, given: Mapping[str, Any]) -> None:
    if any(len(name) > LONGEST_SETTING_ID for name in given):
        raise ValidationFailed.of("id", f"A setting's id has at most {LONGEST_SETTING_ID} characters")

    def changed(content: bytes | None) -> bytes:
        known = _parsed(content) if content is not None else {}
        return json.dumps({**known, **given}, indent=4).encode()

    user_data.change(user, SETTINGS, changed)


def _parsed(content: bytes) -> dict[str, Any]:
    """Empty for a file that does not contain settings, as in ComfyUI."""
    try:
        found = parsers.loads(content)
    except (ParseError, ValidationFailed):
        return {}
    return dict(found) if isinstance(found, dict) else {}
