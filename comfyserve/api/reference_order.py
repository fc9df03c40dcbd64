"""The order of operations in the OpenAPI schema: that of the reference, then the rest."""

from __future__ import annotations

TAGS = {
    "auth": "Accounts, sessions, API keys",
    "workflows": "Submit, follow, cancel, fetch",
    "apps": "Workflows under a name, with typed inputs",
    "models": "Model files on disk and in memory",
    "files": "Uploads and outputs",
    "destinations": "Buckets that outputs are delivered to",
    "health": "Probes",
    "metrics": "Metrics, as JSON and for Prometheus",
    "workers": "GPU workers, for operators",
}
PATHS = (
    "/auth/register",
    "/auth/login",
    "/auth/refresh",
    "/auth/me",
    "/auth/logout",
    "/workflows/execute",
    "/workflows/{execution_id}",
    "/workflows/",
    "/workflows/{execution_id}/cancel",
    "/workflows/{execution_id}/status",
    "/workflows/{execution_id}/logs",
    "/workflows/{execution_id}/retry",
    "/models/",
    "/models/{model_name}",
    "/models/{model_name}/download",
    "/models/{model_name}/load",
    "/models/{model_name}/unload",
    "/models/cleanup",
    "/models/{model_name}/download-progress",
    "/files/upload",
    "/files/{file_id}",
    "/files/{file_id}/info",
    "/health/",
    "/health/detailed",
    "/health/readiness",
    "/health/liveness",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

DESCRIPTION = """ComfyUI as a dependable multi-user REST API.

**The first call**: register, log in, submit a workflow as ComfyUI exports it with *Export (API)*, and wait
for the result.

```sh
API=http://localhost:8000
curl -s $API/auth/register -H 'Content-Type: application/json' \\
  -d '{"email": "you@example.com", "username": "you", "password": "a long secret phrase"}'
TOKEN=$(curl -s $API/auth/login -H 'Content-Type: application/json' \\
  -d '{"email": "you@example.com", "password": "a long secret phrase"}' \\
  | python3 -c 'import json, sys; print(json.load(sys.stdin)["access_token"])')
curl -s $API/workflows/execute -H "Authorization: Bearer $TOKEN" \\
  -H 'Content-Type: application/json' -H 'Prefer: wait=30' -d '{
    "workflow": {
      "1": {"class_type": "EmptyImage",
            "inputs": {"width": 512, "height": 512, "batch_size": 1, "color": 3368652}},
      "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}}
    }}'
```

On this page, *Authorize* takes the token.
"""


def key(endpoint: tuple[str, str, str, object]) -> tuple[int, int, str, int]:
    """Sort key for drf-spectacular's endpoints (path, its regular expression, method, view)."""
    path, _, method, _ = endpoint
    tag = path.split("/")[1]
    tags = list(TAGS)
    return (
        tags.index(tag) if tag in tags else len(tags),
        PATHS.index(path) if path in PATHS else len(PATHS),
        path,
        METHODS.index(method) if method in METHODS else len(METHODS),
    )
