"""No wait in our processes is without a deadline, and no loop or retry without a bound.

Read from the code: a call that can wait must say for how long, and `while True` must be in the list with the
reason why it ends.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "accounts", "apps_catalog", "comfyserve", "comfyui", "comfyui_bridge", "doors", "files", "health",
    "models_registry", "workflows",
)  # fmt: skip

# By the method's name: which positional argument is the timeout, or None where it must be named.
WAITING_METHODS = {
    "wait": 0,  # Event, Condition, Popen
    "wait_for": 1,  # Condition; asyncio.wait_for(awaitable, timeout)
    "join": 0,  # Thread
    "acquire": 1,  # Lock, and kombu's pools
    "result": 0,  # Future
    "communicate": 1,
    "blpop": 1,
    "brpop": 1,
    "notifies": None,
    "get_message": None,
}
WAITING_FUNCTIONS = {
    "requests": {"get", "post", "put", "patch", "delete", "head", "options", "request"},
    "subprocess": {"run", "call", "check_call", "check_output"},
    "socket": {"create_connection"},
    "websocket": {"create_connection"},
    "psycopg": {"connect"},
    "urllib3": {"request"},
}
CLIENTS = {  # made once, with the timeouts of all their calls
    "from_url": {"socket_connect_timeout", "socket_timeout"},
    "PoolManager": {"timeout"},
    "Config": {"connect_timeout", "read_timeout"},
}

# What is allowed all the same: "file: function", and why it is bounded.
NO_TIMEOUT = {
    "comfyserve/api/bodies.py: BodyStream.for_django": "cancelled by Django when the response is sent",
    "comfyserve/api/gate/application.py: _nothing.empty": "cancelled by Django when the response is sent",
    "doors/comfyui/websocket.py: Websocket._listen": "a task of the connection, cancelled with it",
    "doors/mcp/views.py: Turn.begin": "those before it read rows and stored files, and wait for no client",
    "comfyserve/outbound/dns.py: _ask": "a queue without a size",
    "comfyui/client.py: Client.__init__": "each request is given its timeout in Client._request",
    "files/decoding.py: _Pool._fill": "a queue without a size",
    "files/uploads.py: _Reading._written": "a write of AHEAD bytes to the local disk",
    "health/probing.py: Shared.get": "the future is done when it is asked",
    "workflows/streaming/asgi.py: _end": "its tasks were cancelled just before",
    "workflows/streaming/broadcaster.py: Broadcaster._read_changes": "until Broadcaster.end cancels it",
    "workflows/streaming/broadcaster.py: Broadcaster.end": "its tasks were cancelled just before",
    "workflows/webhooks/deliverer.py: Deliverer.close": "deliveries have timeouts; uploads are aborted",
    "workflows/task_events.py: Publisher._run": "waits for something to do; woken by Publisher.close",
}
LOOPS = {
    "accounts/idempotency.py: _claim_or_answer": "WAIT_SECONDS, then 409",
    "comfyserve/asgi.py: lifespan": "the process's life: until the server sends lifespan.shutdown",
    "comfyserve/db/connections.py: retry_until_available": "LONGEST_OUTAGE, then the error",
    "comfyserve/outbound/client.py: _answer.read": "a deadline for all of it, and max_bytes",
    "comfyui/session.py: Session._listen": "DEAD seconds of silence; aborted by Session.close",
    "comfyui_bridge/between.py: _do_jobs": "until the list of jobs is empty",
    "comfyui_bridge/watchdog.py: _watch": "the process's life: a daemon thread",
    "files/cleaning.py: expired": "each round begins behind the last id of the one before",
    "files/converted.py: of": "`seconds`, then 503",
    "files/metadata.py: strip_jpeg": "each round reads two bytes of a file that ends",
    "files/sandbox.py: _acquire": "those before it, each CONVERSION_SECONDS; `alive`; the process's end",
    "files/sandbox.py: _answer": "CONVERSION_SECONDS, then the process is killed",
    "files/uploads.py: _pieces": "the body of a request: the gate limits its bytes and its time",
    "files/uploads.py: receive": "the same",
    "health/system.py: existing": "each round is one folder higher, and the root exists",
    "models_registry/commands.py: _wait": "`seconds`",
    "models_registry/loading.py: _unload": "LONGEST_SECONDS, then it fails",
    "models_registry/part_file.py: open_part": "another download of the same file, which is bounded",
    "models_registry/fetching.py: _Fetch._try_until_done": "TRIES in a row without progress",
    "workflows/cleaning.py: _executions": "each round begins behind the last one, or nothing is left",
    "workflows/delayed_tickets.py: DelayedTickets._send": "a daemon thread, ends when idle",
    "workflows/streaming/broadcaster.py: Broadcaster._check_credentials": "until Broadcaster.end cancels it",
    "workflows/streaming/broadcaster.py: Broadcaster._read_changes": "until Broadcaster.end cancels it",
    "workflows/streaming/broadcaster.py: Broadcaster._recheck": "until Broadcaster.end cancels it",
    "workflows/streaming/event_reader.py: all_lines_after": "each round begins behind the last line",
    "workflows/streaming/redis_listener.py: RedisListener.listen": "until Broadcaster.end cancels it",
    "workflows/task_events.py: Publisher._run": "until the queue, which has a size, is empty",
    "workflows/worker/afterwards.py: Afterwards._run_forever": "the process's life: a daemon thread",
    "workflows/worker/afterwards.py: Afterwards._next": "until there is a job, in a daemon thread",
    "workflows/streaming/redis_listener.py: RedisListener._listen_once": "the same",
    "workflows/worker/attempt.py: Attempt._cancel_in_comfyui": "2 * HANG_SECONDS, then it is an orphan",
    "workflows/worker/runner.py: Runner._follow": "the execution's time, STALL_SECONDS of silence, the claim",
    "workflows/worker/attempt.py: Attempt._release_lost_claim": "LEAVE_SECONDS, then it is cleared",
}


class Found(ast.NodeVisitor):
    def __init__(self) -> None:
        self.calls: list[tuple[str, int, str]] = []
        self.loops: list[tuple[str, int]] = []
        self._in: list[str] = []
        self._timeouts = 0  # `async with asyncio.timeout(…)` around here

    def _within(self, node: ast.AST) -> None:
        self._in.append(node.name)  # type: ignore[attr-defined]
        self.generic_visit(node)
        self._in.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _within  # noqa: N815

    @property
    def where(self) -> str:
        return ".".join(self._in)

    def visit_While(self, node: ast.While) -> None:
        if isinstance(node.test, ast.Constant) and node.test.value:
            self.loops.append((self.where, node.lineno))
        if repeats_until_done(node.test):
            self.loops.append((self.where, node.lineno))
        self.generic_visit(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        if not self._timeouts:
            self.loops.append((self.where, node.lineno))
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        bare = isinstance(node.value, ast.Name | ast.Attribute)  # a task or a future
        gets = isinstance(node.value, ast.Call) and is_bare_get(node.value)
        if not self._timeouts and (bare or gets):
            self.calls.append((self.where, node.lineno, ast.unparse(node)))
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        bounded = any(ast.unparse(item.context_expr).startswith("asyncio.timeout(") for item in node.items)
        self._timeouts += bounded
        self.generic_visit(node)
        self._timeouts -= bounded

    def visit_Call(self, node: ast.Call) -> None:
        if not self._timeouts and waits_for_ever(node):
            self.calls.append((self.where, node.lineno, ast.unparse(node)))
        self.generic_visit(node)


def repeats_until_done(test: ast.expr) -> bool:
    """`while not lock.acquire(timeout=1)`: each try is bounded, and their number is not."""
    if not (
        isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Call)
    ):
        return False
    function = test.operand.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name not in ("is_set", "wait")  # of the event that ends a thread


def waits_for_ever(node: ast.Call) -> bool:
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if None in named:
        return False  # **options: made in one place, which is looked at itself
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in CLIENTS:
        return not CLIENTS[name] <= named.keys()
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if owner == "asyncio" and name in ("wait", "gather"):
        return "timeout" not in named
    if name == "shutdown" and "wait" in named:  # of a pool of threads
        return not (isinstance(named["wait"], ast.Constant) and named["wait"].value is False)
    if name == "put" and is_queue(function.value):
        return "timeout" not in named and "block" not in named
    if name in WAITING_FUNCTIONS.get(owner, ()):
        return "timeout" not in named and "connect_timeout" not in named
    if name == "get" and is_queue(function.value):
        return "timeout" not in named and "block" not in named and not node.args
    if name not in WAITING_METHODS:
        return False
    if name == "join" and (isinstance(function.value, ast.Constant) or is_text(node)):
        return False  # of texts and paths
    given = named.get("timeout")
    position = WAITING_METHODS[name]
    if given is None and position is not None and len(node.args) > position:
        given = node.args[position]
    if name == "acquire" and "blocking" in named:
        return False
    return given is None or (isinstance(given, ast.Constant) and given.value is None)


def is_queue(node: ast.AST) -> bool:
    return any(word in ast.unparse(node) for word in ("queue", "_events", "_items", "_free", "answers"))


def is_bare_get(node: ast.Call) -> bool:
    """`await queue.get()`; `await super().get()` is a view's."""
    function = node.func
    named = isinstance(function, ast.Attribute) and function.attr == "get"
    return named and not node.args and not node.keywords and "super()" not in ast.unparse(function)


def is_text(node: ast.Call) -> bool:
    """`", ".join(parts)` and `os.path.join(a, b)`: a thread's join takes no such thing."""
    return bool(node.args) and not isinstance(node.args[0], ast.Constant)


def everything() -> Iterator[tuple[str, Found]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "migrations" in path.parts:
                continue
            found = Found()
            found.visit(ast.parse(path.read_text()))
            yield str(path.relative_to(ROOT)), found


def test_every_call_that_waits_says_for_how_long():
    found = {
        f"{file}: {where}": f"{line}: {call}"
        for file, each in everything()
        for where, line, call in each.calls
    }
    assert {place: call for place, call in found.items() if place not in NO_TIMEOUT} == {}
    assert NO_TIMEOUT.keys() - found.keys() == set(), "not there any more"


def test_every_endless_loop_is_known_to_end():
    found = {f"{file}: {where}": line for file, each in everything() for where, line in each.loops}
    assert {place: line for place, line in found.items() if place not in LOOPS} == {}
    assert LOOPS.keys() - found.keys() == set(), "not there any more"


@pytest.mark.parametrize(
    ("code", "is_one"),
    [
        ("event.wait()", True),
        ("event.wait(3)", False),
        ("event.wait(timeout=None)", True),
        ("thread.join()", True),
        ("', '.join(names)", False),
        ("lock.acquire()", True),
        ("lock.acquire(timeout=1)", False),
        ("self._queue.get()", True),
        ("self._queue.get(timeout=1)", False),
        ("requests.get(url)", True),
        ("requests.get(url, timeout=3)", False),
        ("subprocess.run(command)", True),
        ("redis.Redis.from_url(url)", True),
        ("future.result()", True),
        ("asyncio.wait(tasks)", True),
        ("asyncio.wait(tasks, timeout=1)", False),
        ("asyncio.gather(one, other)", True),
        ("pool.shutdown(wait=True)", True),
        ("pool.shutdown(wait=False)", False),
        ("self._queue.put(item)", True),
        ("self._queue.put(item, timeout=1)", False),
    ],
)
def test_the_search_finds_them(code, is_one):
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    assert waits_for_ever(call) == is_one


@pytest.mark.parametrize(
    ("code", "calls", "loops"),
    [
        ("async def f(): await task", 1, 0),
        ("async def f(): await self._arrived.get()", 1, 0),
        ("async def f():\n async with asyncio.timeout(3): await task", 0, 0),
        ("async def f():\n async for message in socket: pass", 0, 1),
        ("async def f():\n async with asyncio.timeout(3):\n  async for message in socket: pass", 0, 0),
        ("while True: pass", 0, 1),
        ("while not lock.acquire(timeout=1): pass", 0, 1),
        ("while not stopping.wait(1): pass", 0, 0),
    ],
)
def test_the_search_finds_what_coroutines_wait_for(code, calls, loops):
    found = Found()
    found.visit(ast.parse(code))
    assert (len(found.calls), len(found.loops)) == (calls, loops)
