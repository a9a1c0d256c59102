"""What every route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from daiko.control.system import System


async def _system(request: Request) -> System:
    # A plain function would be called in a thread, which costs more than the whole request.
    system: System = request.app.state.system
    return system


Running = Annotated[System, Depends(_system)]
"""The running system."""
