"""uvicorn's websocket protocol, without its error message for a handshake that was refused in order.

Passed to uvicorn as `--ws comfyserve.api.gate.websocket_protocol:WebsocketProtocol`.
"""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class WebsocketProtocol(WebSocketsSansIOProtocol):
    async def send(self, message: ASGISendEvent) -> None:
        """uvicorn does not count a response to the handshake as its end, and logs an error for each."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True
