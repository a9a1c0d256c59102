"""Lists that may be long, sent piece by piece.

A list of 10,000 volumes or a million extents is never there as a whole: a piece is made, sent, and
forgotten before the next one, and between two pieces the hosts are served. The rows come from
records as they were when the request came, which are values: what changes meanwhile changes nothing
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any, Final

from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from pydantic_core import to_json

PIECE: Final = 200
"""Rows: about a millisecond's work."""


def listed(rows: Iterable[BaseModel | dict[str, Any]]) -> StreamingResponse:
    """The rows as a JSON array."""
    return StreamingResponse(_pieces(rows), media_type="application/json")


async def _pieces(rows: Iterable[BaseModel | dict[str, Any]]) -> AsyncIterator[bytes]:
    source = iter(rows)
    head = b"["
    while piece := list(islice(source, PIECE)):
        yield head + to_json(piece)[1:-1]
        head = b","
        # The transport takes what it is given at once, so this is what lets others in.
        await asyncio.sleep(0)
    yield b"]" if head == b"," else b"[]"
