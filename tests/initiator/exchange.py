"""What the tests of the initiator share: commands, and answers of the scripted target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.initiator.command import AskedCommand
from daiko.initiator.multipath import Multipath
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.pdu import (
    ScsiCommand,
)
from initiator.scripted_target import Link, ScriptedTarget

INITIATOR = "iqn.2026-11.com.example:daiko"
QUICK = InitiatorSettings(
    tick=0.01,
    command_timeout=30.0,
    abort_timeout=0.05,
    reset_timeout=0.05,
    logout_timeout=0.05,
    ping_interval=30.0,
    grace=30.0,
    reconnect_first=0.01,
    reconnect_longest=0.05,
    busy_first=0.001,
    busy_longest=0.01,
    attempts=4,
)
MakePaths = Callable[..., Multipath]

READ = bytes.fromhex("28000000000000000100")
WRITE = bytes.fromhex("2a000000000000000100")
COPY = b"\x83" + bytes(15)

Answer = tuple[DeviceError | None, int, bytes, bytes]


class Watcher:
    """Lets commands go at once, and notes what happens."""

    def __init__(self, target: ScriptedTarget) -> None:
        self.target = target
        self.paths: Multipath | None = None
        self.holds = False
        self.started = 0
        self.reasons: list[str] = []
        self.attentions: list[tuple[int, int]] = []
        self.inaccessible = 0

    def nexus_started(self) -> None:
        self.started += 1
        self.target.event.set()
        if not self.holds and self.paths is not None:
            self.paths.release()

    def nexus_lost(self, reason: str) -> None:
        self.reasons.append(reason)

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        self.attentions.append((asc, ascq))

    def not_accessible(self, lun: int) -> None:
        self.inaccessible += 1


def send(
    paths: Multipath,
    cdb: bytes,
    data_out: bytes = b"",
    read_length: int = 0,
    *,
    replay: bool = True,
    timeout: float = 30.0,
) -> asyncio.Future[Answer]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def done(error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        assert not future.done(), "completed twice"
        future.set_result((error, status, bytes(data), sense))

    paths.submit(
        AskedCommand(1 << 48, cdb, done, data_out, read_length, timeout=timeout, replay=replay)
    )
    return future


def then(*answers: Callable[[Link, ScsiCommand], None]) -> Callable[[Link, ScsiCommand], None]:
    """The first command gets the first answer, and so on; the rest get the last."""
    left = list(answers)

    def on_command(link: Link, command: ScsiCommand) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(link, command)

    return on_command


def status(code: int, sense: bytes = b"") -> Callable[[Link, ScsiCommand], None]:
    return lambda link, command: link.answer(command, code, sense)


def silence(link: Link, command: ScsiCommand) -> None:
    """The target keeps the command to itself."""


def cut(link: Link, command: ScsiCommand) -> None:
    link.connection.abort()
