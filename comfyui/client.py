"""ComfyUI's HTTP routes, typed.

    client = Client("http://127.0.0.1:8188")
    client.submit(prompt=graph, prompt_id=id, client_id=session_id)
    client.whereabouts(id)          "running", "queued", "ended" or "unknown"
    history = client.history(id)
    with client.view(history.files[0]) as stream:
        for chunk in stream: ...

Nothing is retried: only the caller knows whether that is safe. All errors are those of `comfyui.errors`,
whatever the cause.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, TypeVar
from urllib.parse import quote, urlencode

import certifi
import urllib3

from comfyui import _parsing
from comfyui._multipart import MultipartBody
from comfyui.errors import NotFound, Refused, Unreachable
from comfyui.types import Folder, History, OutputFile, Prompt, QueueState, Submitted, SystemStats, Whereabouts

CHUNK = 256 * 1024  # chunk size of streamed files, in bytes
POOL = 32  # pooled connections; more threads still work, with new connections
NEVER_SENT = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    ValueError,  # a URL or header from which no request can be built
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response below 500 that is not a redirect. `body` is empty while the response is still to be
    streamed.
    """

    status: int
    body: bytes
    request: str  # such as "GET /queue"
    raw: urllib3.BaseHTTPResponse


class FileStream:
    """A file being streamed. Iterating raises `Unreachable` if the connection ends before the file does."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response
        length = response.headers.get("Content-Length", "")
        self.length: int | None = int(length) if length.isdecimal() else None
        self.content_type = response.headers.get("Content-Type", "application/octet-stream")

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()

    def chunks(self, size: int = CHUNK) -> Iterator[bytes]:
        try:
            yield from self._response.stream(size)
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise Unreachable(f"the file broke off: {exc}", sent=True) from exc


class Client:
    """One ComfyUI. Safe to share among threads; connections are pooled.

    `timeout` (seconds) limits the wait between two reads, `connect_timeout` that for a connection. `headers`
    are sent with every request, for a protected ComfyUI. Proxies and .netrc of the environment are ignored.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 10.0,
        connect_timeout: float = 2.0,
    ) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._pool = urllib3.PoolManager(
            num_pools=2, maxsize=POOL, headers=dict(headers or {}), ca_certs=certifi.where()
        )

    def close(self) -> None:
        self._pool.clear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- prompts ------------------------------------------------------------------------------

    def submit(
        self,
        *,
        prompt: Prompt,
        prompt_id: str,
        client_id: str,
        front: bool = False,
        extra_data: Mapping[str, Any] | None = None,
        partial_execution_targets: Sequence[str] | None = None,
    ) -> Submitted:
        """Put a prompt into ComfyUI's queue.

        Raises `Refused` if ComfyUI rejects all of it, and `Unreachable` otherwise; with `sent` it may be
        queued nevertheless. ComfyUI does not check for duplicate ids: submitted twice, it runs twice.
        """
        body: dict[str, Any] = {"prompt": prompt, "prompt_id": prompt_id, "client_id": client_id}
        if front:
            body["front"] = True
        if extra_data is not None:
            body["extra_data"] = dict(extra_data)
        if partial_execution_targets is not None:
            body["partial_execution_targets"] = list(partial_execution_targets)
        answer = self.post("/prompt", body)
        if answer.status in (400, 413):
            raise _refused(answer)
        return self.parse(answer, _parsing.submitted)

    def queue(self) -> QueueState:
        """The running and waiting prompts, with whole graphs: some kilobytes each."""
        return self.parse(self.get("/queue"), _parsing.queue)

    def queue_remaining(self) -> int:
        """The number of running and waiting prompts: a few bytes, unlike `queue`."""
        return self.parse(self.get("/prompt"), lambda raw: int(raw["exec_info"]["queue_remaining"]))

    def history(self, prompt_id: str) -> History | None:
        """How a prompt ended; None if it has not, or ComfyUI does not know it (any more)."""
        answer = self.get(f"/history/{_segment(prompt_id)}")
        return self.parse(answer, lambda raw: _parsing.history(prompt_id, raw))

    def delete_history(self, *prompt_ids: str) -> None:
        """Delete the history entries of prompts. Does nothing for those without."""
        self._expect_ok(self.post("/history", {"delete": [_given(prompt_id) for prompt_id in prompt_ids]}))

    def delete_queued(self, prompt_id: str) -> None:
        """Remove a waiting prompt from the queue. Causes no event and no history, and does not affect a
        running one."""
        self._expect_ok(self.post("/queue", {"delete": [_given(prompt_id)]}))

    def interrupt(self, prompt_id: str) -> None:
        """Interrupt this prompt if it runs now, at its next step; otherwise does nothing.

        There is no way to interrupt whatever runs. But older versions of ComfyUI ignore the id and interrupt
        whatever runs: with those, check with `queue` first.
        """
        self._expect_ok(self.post("/interrupt", {"prompt_id": _given(prompt_id)}))

    def cancel(self, prompt_id: str) -> None:
        """Remove a prompt from the queue, or interrupt it if it runs; otherwise does nothing.

        One atomic request if ComfyUI has the route for it (versions since 2026). Otherwise another prompt
        could start between the queue check and the interrupt.
        """
        answer = self.post(f"/api/jobs/{_segment(prompt_id)}/cancel", {})
        if answer.status not in (404, 405):
            self._expect_ok(answer)
            return
        self.delete_queued(prompt_id)
        # Older versions interrupt whatever runs, so first check that it is this one.
        if any(item.prompt_id == prompt_id for item in self.queue().running):
            self.interrupt(prompt_id)

    def whereabouts(self, prompt_id: str) -> Whereabouts:
        """Where a prompt is: up to four requests.

        A prompt moves from queue to history and never back, so the queue is read first. A prompt about to be
        queued (a submission without a response) may be missed once: "unknown" is returned only after both
        were read twice.
        """
        for _ in range(2):
            state = self.queue()
            if any(item.prompt_id == prompt_id for item in state.running):
                return "running"
            if any(item.prompt_id == prompt_id for item in state.pending):
                return "queued"
            if self.history(prompt_id) is not None:
                return "ended"
        return "unknown"

    # -- files --------------------------------------------------------------------------------

    @contextmanager
    def view(self, file: OutputFile) -> Iterator[FileStream]:
        """The bytes of a file, streamed. Raises `NotFound` if it is gone.

        The connection is in use until the block is left.
        """
        answer = self.get(f"/view?{_query_of(file)}", stream=True)
        try:
            if answer.status in (400, 403, 404) and not _is_page(answer):
                raise NotFound(f"ComfyUI gives no {file.type} file {file.subfolder}/{file.filename}")
            self._expect_ok(answer)
            if "filename" not in answer.raw.headers.get("Content-Disposition", ""):
                raise _unexpected(answer)  # a login page, for example: ComfyUI names every file
            yield FileStream(answer.raw)
        finally:
            _release(answer.raw)

    def upload(
        self,
        name: str,
        stream: IO[bytes],
        *,
        subfolder: str = "",
        type: Folder = "input",  # noqa: A002  ComfyUI's name for it
        overwrite: bool = True,
        kind: Literal["image", "mask"] = "image",
        original: OutputFile | None = None,
    ) -> str:
        """Upload a file of any type; returns the value for a node's input.

        With overwrite False, ComfyUI picks another name if it is taken by other content, so use the returned
        one. A mask is applied as transparency over `original`. The stream is read as it is sent and keeps its
        position where reading ended.
        """
        if not name or any(char in "/\\" or ord(char) < 32 for char in name):
            raise ValueError(f"a plain file name is needed, not {name!r}")
        if kind == "mask" and original is None:
            raise ValueError("a mask needs the original that it is laid over")
        fields = {"type": type, "subfolder": subfolder, "overwrite": "true" if overwrite else "false"}
        if original is not None:
            fields["original_ref"] = json.dumps(
                {"filename": original.filename, "subfolder": original.subfolder, "type": original.type}
            )
        body = MultipartBody(fields=fields, file_field="image", filename=name, stream=stream)
        headers = {"Content-Type": body.content_type}
        if body.length is not None:
            headers["Content-Length"] = str(body.length)
        # urllib3 uses the connect timeout for each write too: too short for a busy disk.
        answer = self._request(
            "POST", f"/upload/{kind}", body=body, headers=headers, connect_timeout=self._timeout
        )
        if answer.status in (400, 403, 413) and not _is_page(answer):
            text = answer.body.decode(errors="replace")
            kind_of_refusal = "too_large" if answer.status == 413 else "upload_refused"
            raise Refused(type=kind_of_refusal, message=f"ComfyUI rejects {name!r}", raw=text)
        return self.parse(answer, _reference)

    # -- the machine --------------------------------------------------------------------------

    def free(self, *, unload_models: bool = True, free_memory: bool = False) -> None:
        """Free memory, between two prompts. Models stay in RAM unless `free_memory` clears the cache of
        node results too.
        """
        self._expect_ok(self.post("/free", {"unload_models": unload_models, "free_memory": free_memory}))

    def object_info(self, node: str | None = None) -> dict[str, Any]:
        """Every node class with its inputs and outputs (a megabyte or more, half a second), or one: `{}`
        if there is none of that name.
        """
        path = "/object_info" if node is None else f"/object_info/{_segment(node)}"
        return self.parse(self.get(path), _parsing.mapping)

    def system_stats(self) -> SystemStats:
        return self.parse(self.get("/system_stats"), _parsing.system_stats)

    def features(self) -> dict[str, Any]:
        """Includes `max_upload_size`. `{}` from a ComfyUI without that route."""
        answer = self.get("/features")
        return {} if answer.status == 404 else self.parse(answer, _parsing.mapping)

    def ping(self) -> bool:
        """Whether a ComfyUI responds. Never raises."""
        try:
            self.queue_remaining()
        except Unreachable:
            return False
        return True

    # -- requests of any route, for `bridge` too ----------------------------------------------

    def get(self, path: str, *, stream: bool = False) -> Answer:
        return self._request("GET", path, stream=stream)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        data = json.dumps(body).encode()
        return self._request("POST", path, body=data, headers={"Content-Type": "application/json"})

    def _request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | MultipartBody | None = None,
        headers: Mapping[str, str] | None = None,
        stream: bool = False,
        connect_timeout: float | None = None,
    ) -> Answer:
        """Any response except 5xx and redirects: those come from a proxy, or from a failing ComfyUI."""
        request = f"{method} {path}"
        try:
            if "://" not in self.url:
                raise ValueError(f"{self.url!r} lacks http:// or https://")
            raw = self._pool.request(
                method,
                self.url + path,
                body=body,
                headers={**self._pool.headers, **(headers or {})},
                timeout=urllib3.Timeout(connect=connect_timeout or self._connect_timeout, read=self._timeout),
                retries=False,
                redirect=False,
                preload_content=not stream,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as exc:
            raise Unreachable(f"{request}: {exc}", sent=not isinstance(exc, NEVER_SENT)) from exc
        answer = Answer(raw.status, b"" if stream else raw.data, request, raw)
        if raw.status >= 500 or 300 <= raw.status < 400:
            _release(raw)
            raise _unexpected(answer)
        return answer

    def _expect_ok(self, answer: Answer) -> None:
        if answer.status >= 400:
            raise _unexpected(answer)

    def parse(self, answer: Answer, parse: Callable[[Any], T]) -> T:
        self._expect_ok(answer)
        try:
            return parse(json.loads(answer.body))
        except _parsing.MALFORMED as exc:
            raise Unreachable(
                f"{answer.request}: the answer is not ComfyUI's ({type(exc).__name__}: {exc})",
                sent=True,
                status=answer.status,
            ) from exc


def _release(raw: urllib3.BaseHTTPResponse) -> None:
    """The connection is reused if everything was read, else it is closed: more data would follow."""
    raw.close()
    raw.release_conn()


def _is_page(answer: Answer) -> bool:
    """Whether a proxy answered: ComfyUI's own rejections of files are empty or plain text."""
    kind = str(answer.raw.headers.get("Content-Type", ""))
    return "html" in kind or "json" in kind


def _unexpected(answer: Answer) -> Unreachable:
    return Unreachable(f"{answer.request}: answered {answer.status}", sent=True, status=answer.status)


def _refused(answer: Answer) -> Exception:
    """The rejection with ComfyUI's error fields; a 400 without them or a page comes from a proxy."""
    if answer.status == 413:
        if _is_page(answer):
            return _unexpected(answer)
        return Refused(type="too_large", message="The prompt is larger than ComfyUI takes")
    try:
        raw = _parsing.mapping(json.loads(answer.body))
        error = _parsing.mapping(raw["error"])
        return Refused(
            type=str(error["type"]),
            message=str(error.get("message") or ""),
            details=str(error.get("details") or ""),
            node_errors=_parsing.node_errors(raw.get("node_errors")),
            raw=raw,
        )
    except _parsing.MALFORMED:
        return Unreachable("POST /prompt: a 400 that is not ComfyUI's", sent=True, status=400)


def _reference(raw: Any) -> str:
    name, subfolder, folder = (
        str(raw["name"]),
        str(raw.get("subfolder") or ""),
        str(raw.get("type") or "input"),
    )
    path = f"{subfolder}/{name}" if subfolder else name
    return path if folder == "input" else f"{path} [{folder}]"


def _query_of(file: OutputFile) -> str:
    """Raises NotFound for a name that has no UTF-8, with a lone surrogate in it: no request can have it."""
    try:
        return urlencode({"filename": file.filename, "subfolder": file.subfolder, "type": file.type})
    except UnicodeEncodeError as exc:
        raise NotFound(f"ComfyUI's file {file.filename!r} has a name that no request can have") from exc


def _segment(text: str) -> str:
    return quote(_given(text), safe="")


def _given(prompt_id: str) -> str:
    """An empty id would mean "all" or "whatever runs" to ComfyUI."""
    if not prompt_id:
        raise ValueError("an id is needed")
    return prompt_id
