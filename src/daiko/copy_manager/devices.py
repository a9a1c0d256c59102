"""What the copy manager needs of the system around it. `control/system.py` provides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable
from daiko.command_control.naming import DeviceAddress
from daiko.device.block import BlockDevice, Buffer
from daiko.device.layer.timing import CommandTimes
from daiko.mapping.extent import DeviceId, Piece


class Answer(Protocol):
    """What a second command was answered with."""

    @property
    def status(self) -> int: ...
    @property
    def data(self) -> Buffer: ...
    @property
    def sense(self) -> bytes: ...


class CommandPort(Protocol):
    """A second controller, as far as commands go (`backend/second_controller.py`)."""

    @property
    def generation(self) -> int:
        """Changes whenever the I_T nexus was lost: aliases, list identifiers and the proof that
        a write arrived are gone with it."""
        ...

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        data_out: Buffer = b"",
        read_length: int = 0,
        timeout: float | None = None,
    ) -> Answer:
        """Send one command and wait for its status. Raises DeviceError."""
        ...


class Tracking(Protocol):
    """What hosts wrote to a volume since it is tracked (`device/layer/change_tracking.py`)."""

    def changed_in(self, first: int, blocks: int) -> int:
        """How many blocks of a range were written; never less than there were."""
        ...


class Devices(Protocol):
    """The live system: its devices, their controllers, and what is known of them."""

    def block_device(self, device: DeviceId) -> BlockDevice:
        """The device for reading and writing. While its controller is down each request ends
        with Unreachable."""
        ...

    def destination(self, piece: Piece) -> BlockDevice:
        """The device for writing these blocks. A write waits while a command of a host has blocks
        of it for itself. Raises LookupError."""
        ...

    def writing(self, pieces: Sequence[Piece]) -> AbstractAsyncContextManager[None]:
        """For the time that another controller writes to these blocks: entered when no command
        of a host has any of them for itself, and none will until it is left."""
        ...

    def second_controller(self, name: str) -> CommandPort:
        """Raises KeyError where no second controller has this name (INTERNAL devices)."""
        ...

    def function_table(self) -> FunctionTable: ...

    def directory(self) -> Mapping[DeviceId, DeviceAddress]: ...

    def place(self, name: str) -> Place:
        """A volume, BACKEND/LUN, or BACKEND with one LU. Raises LookupError with a sentence."""
        ...

    def track(self, volume: str) -> Tracking:
        """Put change tracking into the volume's write path; each call needs an `untrack`.

        This is the place for backups of one instant: what stands in the write path while a job
        runs is decided here, so that a diversion log can stand there instead (design 7)."""
        ...

    def untrack(self, volume: str, tracking: Tracking) -> None: ...

    def time_commands(self, place: str, times: CommandTimes) -> Callable[[], None]:
        """Time the READs and WRITEs of hosts to a volume, or to the volumes on a device, until what
        this returns is called. Raises LookupError."""
        ...
