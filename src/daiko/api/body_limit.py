"""A request's body is held in memory while it is read, so it has a largest size."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from fastapi.responses import JSONResponse

from daiko.api import problem

LARGEST: Final = 256 << 20
"""Bytes: a document of several million extents."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[MutableMapping[str, Any], _Receive, _Send], Awaitable[None]]


class BodyLimit:
    """Refuses requests with a longer body (413), by what they announce and by what comes."""

    def __init__(self, app: _App, largest: int = LARGEST) -> None:
        self._app = app
        self._largest = largest

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send
    ) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._largest:
            await self._refuse(scope, receive, send)
            return
        came = 0

        async def counted() -> _Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._largest:
                raise ConnectionAbortedError("the body is too long")
            return message

        async def answered(message: _Message) -> None:
            # Whatever the application makes of a body that was cut off, the answer is ours.
            if came <= self._largest:
                await send(message)

        try:
            await self._app(scope, counted, answered)
        except ConnectionAbortedError:
            if came <= self._largest:
                raise
        if came > self._largest:
            await self._refuse(scope, receive, send)

    async def _refuse(
        self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send
    ) -> None:
        refusal = JSONResponse(
            {
                "type": "about:blank",
                "title": "Content Too Large",
                "status": 413,
                "detail": f"a request may have {self._largest} bytes",
                "next_step": "divide it: a document can be applied in parts with `prune` off",
            },
            413,
            media_type=problem.MEDIA_TYPE,
        )
        await refusal(scope, receive, send)
