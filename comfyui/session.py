"""ComfyUI's events for the lifetime of the process: one websocket.

    session = Session(client_id=id, url="http://127.0.0.1:8188")
    with session.subscribe(prompt_id) as subscription:
        client.submit(prompt=graph, prompt_id=prompt_id, client_id=session.client_id)
        while event := subscription.get(timeout=3.0): ...

Subscribe before submitting, or the first events are missed. A client id must belong to one session: when a
second connection uses it, ComfyUI silently stops sending to the first.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from urllib.parse import urlencode

import websocket

from comfyui import events
from comfyui._subscription import Subscription
from comfyui.events import Event

logger = logging.getLogger(__name__)

FIRST_DELAY, LONGEST_DELAY = 0.1, 1.0  # seconds until the next connection attempt
CONNECT_TIMEOUT = 5.0  # seconds
READ_BYTES = 16 * 1024
GRACE = 0.5  # seconds that close() waits for the thread
# Dead peers: after SILENCE seconds we send a ping, after DEAD the connection is considered lost.
SILENCE, DEAD = 8.0, 23.0
HELLO = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
ABOUT_A_PROMPT = (
    events.Started,
    events.Cached,
    events.Executing,
    events.Progress,
    events.ProgressState,
    events.Executed,
    events.Succeeded,
    events.Failed,
    events.Interrupted,
    events.Ended,
    events.Preview,
)

__all__ = ["Session", "Subscription"]


class Session:
    """Connects immediately and reconnects indefinitely, in its own thread, until `close`. With
    `connect=False`, not before `start` is called.

    `connected` says whether events arrive now; `generation` counts the connections so far: a subscriber that
    sees it change may have missed events. `queue_remaining` is the queue length that ComfyUI reported last
    (running prompts included), None without a connection, and `status_at` when it was last reported after
    a change (monotonic).

    ComfyUI forgets all sockets of a client id as soon as any one of them closes, yet still answers pings on
    the others: `connected` may stay wrong indefinitely. It notifies every registered socket when its queue
    changes, so if a submission causes no status message, ours is no longer registered: call `reconnect` then.
    """

    def __init__(
        self, client_id: str, url: str, headers: Mapping[str, str] | None = None, *, connect: bool = True
    ) -> None:
        self.client_id = client_id
        self.generation = 0
        self.queue_remaining: int | None = None
        self.status_at = 0.0
        self._url = url
        scheme, _, rest = url.rstrip("/").partition("://")
        websocket_scheme = "wss" if scheme == "https" else "ws"
        self._address = f"{websocket_scheme}://{rest}/ws?{urlencode({'clientId': client_id})}"
        self._headers = dict(headers or {})
        self._subscriptions: dict[str, list[Subscription]] = defaultdict(list)
        self._lock = threading.Lock()
        self._connected = threading.Event()
        self._stopping = threading.Event()
        self._begun = False
        self._outage_logged = False  # of this outage, in the log
        self._socket: websocket.WebSocket | None = None
        self._current: str | None = None  # the running prompt, for messages that do not name theirs
        self._thread = threading.Thread(target=self._run, name=f"comfyui-session-{client_id}", daemon=True)
        if connect:
            self.start()

    def start(self) -> None:
        """Start connecting. Does nothing if already started, or closed."""
        with self._lock:
            if not self._begun and not self._stopping.is_set():
                self._begun = True
                self._thread.start()

    def also_as(self, client_id: str) -> Session:
        """Open a second connection, with the id of an earlier process of ours: its events reach the
        subscriptions of this session too. The caller closes it.
        """
        other = Session(client_id, self._url, self._headers, connect=False)
        other._subscriptions, other._lock = self._subscriptions, self._lock
        other.start()
        return other

    def reconnect(self) -> None:
        """Drop the current connection: it is reestablished within a moment."""
        logger.warning("no events from ComfyUI, reconnecting", extra={"action": "comfyui_reconnect"})
        self._close_socket()

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until events arrive; False on `timeout` (seconds)."""
        return self._connected.wait(timeout)

    def subscribe(self, prompt_id: str) -> Subscription:
        """The events of one prompt from now on, and every Disconnected and Connected."""
        subscription = Subscription(prompt_id, on_close=self._unsubscribe)
        with self._lock:
            self._subscriptions[prompt_id].append(subscription)
        return subscription

    def close(self) -> None:
        """Close the connection. Subscribers get a final Disconnected. A thread blocked in connecting is not
        waited for; it ends by itself within CONNECT_TIMEOUT."""
        self._stopping.set()
        self._close_socket()
        if self._begun and threading.current_thread() is not self._thread:
            self._thread.join(timeout=GRACE)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            if self._one_connection():
                delay = FIRST_DELAY
                self._outage_logged = False
            # Jitter, so that the workers of a fleet do not all reconnect at once.
            self._stopping.wait(delay * random.uniform(0.5, 1.0))  # noqa: S311  no secret
            delay = min(delay * 2, LONGEST_DELAY)

    def _one_connection(self) -> bool:
        """One connection, from connect to close. Returns whether ComfyUI registered us."""
        generation = self.generation
        try:
            self._socket = self._connect()
            if self._stopping.is_set():  # close() was called before there was a connection to close
                return False
            self._listen(self._socket)
        except (OSError, websocket.WebSocketException) as exc:
            if not self._stopping.is_set() and not self._outage_logged:
                self._outage_logged = True
                logger.info("no events from ComfyUI: %s", exc, extra={"action": "comfyui_disconnected"})
        except Exception:  # this thread alone reestablishes the connection
            logger.exception(
                "unexpected error in the session with ComfyUI", extra={"action": "comfyui_session_error"}
            )
        finally:
            self._close_socket()
            self._lost()
        return self.generation > generation

    def _connect(self) -> websocket.WebSocket:
        connection = websocket.create_connection(
            self._address,
            timeout=CONNECT_TIMEOUT,
            header=self._headers,
            suppress_origin=True,  # ComfyUI responds 403 to an origin other than its own host
            skip_utf8_validation=True,  # done in Python, byte by byte
            # No proxy from the environment. The library reads http_no_proxy only if a proxy is set.
            http_no_proxy=["*"],
            http_proxy_host="none",
            http_proxy_port=1,
        )
        _read_ahead(connection)
        connection.send(HELLO)
        connection.settimeout(SILENCE)
        return connection

    def _listen(self, connection: websocket.WebSocket) -> None:
        last_frame_at = time.monotonic()
        while True:
            try:
                opcode, frame = connection.recv_data_frame(control_frame=True)
            except websocket.WebSocketTimeoutException:
                if time.monotonic() - last_frame_at > DEAD:
                    raise
                connection.ping()
                continue
            last_frame_at = time.monotonic()
            if opcode == websocket.ABNF.OPCODE_TEXT:
                self._dispatch(events.parse(frame.data.decode(errors="replace")))
            elif opcode == websocket.ABNF.OPCODE_BINARY:
                self._dispatch(events.parse(bytes(frame.data)))
            elif opcode == websocket.ABNF.OPCODE_CLOSE:
                return

    def _close_socket(self) -> None:
        connection = self._socket
        if connection is None:
            return
        try:
            connection.abort()  # type: ignore[no-untyped-call]  # wakes a thread that reads from it
        except OSError:
            pass  # already closed
        if threading.current_thread() is self._thread:
            connection.shutdown()  # type: ignore[no-untyped-call]
            self._socket = None

    # -- giving out -----------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, events.Connected):
            self.generation += 1
            self.queue_remaining = event.remaining  # of a ComfyUI that may have restarted meanwhile
            with self._lock:  # a subscriber that waited for this connection gets no event about it
                self._connected.set()
                subscriptions = self._all_subscriptions()
            self._put(event, subscriptions)
        elif isinstance(event, events.QueueStatus):
            self.queue_remaining = event.remaining
            self.status_at = time.monotonic()
        elif isinstance(event, ABOUT_A_PROMPT):
            self._to_its_prompt(event)
        elif isinstance(event, events.ProgressText) and self._current is not None:
            self._to(self._current, event)

    def _to_its_prompt(self, event: Event) -> None:
        prompt_id: str | None = getattr(event, "prompt_id", None)
        if prompt_id is None:
            # Right after connecting during a run the prompt of a node is not known yet: omitted.
            if self._current is None or not isinstance(event, events.Preview):
                return
            prompt_id = self._current
            event = replace(event, prompt_id=prompt_id)
        elif isinstance(event, events.Ended):
            self._current = None
        else:
            self._current = prompt_id
        self._to(prompt_id, event)

    def _lost(self) -> None:
        self._current = None
        self.queue_remaining = None
        if self._connected.is_set():
            self._connected.clear()
            self._to_all(events.Disconnected())

    def _to(self, prompt_id: str, event: Event) -> None:
        with self._lock:
            subscriptions = tuple(self._subscriptions.get(prompt_id, ()))
        self._put(event, subscriptions)

    def _to_all(self, event: Event) -> None:
        with self._lock:
            subscriptions = self._all_subscriptions()
        self._put(event, subscriptions)

    def _all_subscriptions(self) -> list[Subscription]:
        """The caller holds the lock."""
        return [each for group in self._subscriptions.values() for each in group]

    @staticmethod
    def _put(event: Event, subscriptions: Iterable[Subscription]) -> None:
        for subscription in subscriptions:
            subscription.put(event)

    def _unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            group = self._subscriptions.get(subscription.prompt_id, [])
            if subscription in group:
                group.remove(subscription)
            if not group:
                self._subscriptions.pop(subscription.prompt_id, None)


def _read_ahead(connection: websocket.WebSocket) -> None:
    """Read as much as has arrived, of several frames too. The library reads the header, the length and the
    payload of each frame one by one, and this thread has to wait for the interpreter after each of them.
    """
    receive = connection.frame_buffer.recv
    connection.frame_buffer.recv = lambda _: receive(READ_BYTES)
