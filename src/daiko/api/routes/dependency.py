"""What every route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from daiko.control.system import System


def _system(request: Request) -> System:
    system: System = request.app.state.system
    return system


Running = Annotated[System, Depends(_system)]
"""The running system."""
