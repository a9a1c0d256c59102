"""The plan of a request, with all its reasons, without carrying anything out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from daiko.command_control.plan import Plan
from daiko.control import jobs
from daiko.copy_manager.request import CopyRequest

if TYPE_CHECKING:
    from daiko.control.system import System


@dataclass(frozen=True, slots=True)
class Explanation:
    """A request, and what would be done about it now."""

    request: CopyRequest
    plan: Plan
    block_size: int
    """Bytes a block of the source."""
    destination_block_size: int


def explain(system: System, wanted: CopyRequest) -> Explanation:
    """Plan a request against the function table as it is. Raises NotFound, Invalid."""
    with jobs.refusals():
        plan = system.copy_manager.plan(wanted)
        source = system.devices.place(wanted.source)
        destination = system.devices.place(wanted.destination)
    return Explanation(wanted, plan, source.block_size, destination.block_size)
