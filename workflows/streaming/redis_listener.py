"""The Redis subscription of one web process: it reconnects by itself and hands over every message."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import redis.asyncio
from django.conf import settings

from comfyserve import outages
from workflows import notify

logger = logging.getLogger(__name__)


class RedisListener:
    """Belongs to the event loop's thread.

    channels: those to subscribe to after a reconnect, besides `notify.CHANNEL`.
    on_connect: called once subscribed; messages published before that were missed.
    """

    def __init__(
        self,
        *,
        channels: Callable[[], Iterable[str]],
        on_connect: Callable[[], None],
        on_message: Callable[[bytes], None],
    ) -> None:
        self._channels = channels
        self._on_connect = on_connect
        self._on_message = on_message
        self._pubsub: redis.asyncio.client.PubSub | None = None
        self._connected_at = 0.0  # monotonic

    @property
    def connected(self) -> bool:
        return self._pubsub is not None

    def connected_since(self, moment: float) -> bool:
        """Whether no message has been missed since `moment` (monotonic)."""
        return self.connected and self._connected_at <= moment

    async def listen(self) -> None:
        """Runs until cancelled; an outage only delays it."""
        backoff = outages.Backoff(0.2, 5.0)
        while True:
            try:
                await self._listen_once(backoff)
            except outages.REDIS as exc:
                logger.warning("live streams continue without Redis: %s", exc)
            except Exception:  # nothing else would restart the listener
                logger.exception("live streams continue without Redis")
            finally:
                self._pubsub = None
            await asyncio.sleep(backoff.next())

    async def _listen_once(self, backoff: outages.Backoff) -> None:
        client = redis.asyncio.Redis.from_url(
            settings.REDIS_URL,
            socket_connect_timeout=1.0,
            socket_timeout=None,  # an idle subscription is not an error
            socket_keepalive=True,
            health_check_interval=10,
        )
        async with client, client.pubsub() as pubsub:
            await pubsub.subscribe(notify.CHANNEL)
            self._pubsub = pubsub
            self._connected_at = time.monotonic()
            backoff.reset()
            # Only once `_pubsub` is set: from here on, readers that join subscribe for themselves.
            if channels := list(self._channels()):
                await pubsub.subscribe(*channels)
            self._on_connect()
            while True:
                message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=5.0)
                if message is not None:
                    self._on_message(message["data"])

    async def subscribe(self, channel: str) -> None:
        await self._request("subscribe", channel)

    async def unsubscribe(self, channel: str) -> None:
        await self._request("unsubscribe", channel)

    async def _request(self, what: str, channel: str) -> None:
        if self._pubsub is None:
            return  # `channels` is applied on the next connection
        try:
            await getattr(self._pubsub, what)(channel)
        except outages.REDIS as exc:
            logger.warning("%s of %s failed: %s", what, channel, exc)
