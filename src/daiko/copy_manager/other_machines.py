"""Logical units on other machines, named by a host's alias or address.

They belong to no back end that an administrator attached; a copy that names one opens a session to
its target, and the session stays for a while, because copies come in series. While a copy holds
such a unit it is a device like any other: `WithOtherMachines` puts it beside those of the system.
Whether the host may name it has been decided before (`target/commands/cscd_resolution.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

import structlog

from daiko.backend.lu_facts import LuFacts
from daiko.command_control.decision import Place
from daiko.command_control.function_table import FunctionTable
from daiko.command_control.naming import DeviceAddress
from daiko.copy_manager.devices import CommandPort, Devices, Tracking
from daiko.device.block import BlockDevice
from daiko.device.error import DeviceError, Unreachable
from daiko.device.layer.timing import CommandTimes
from daiko.mapping.extent import DeviceId, Piece

log = structlog.get_logger(__name__)

_IDLE_SECONDS = 60.0
"""How long a session that no copy uses stays open."""

_MOST_SESSIONS = 64
"""Open at a time; a host that names ever other portals gets no more than that."""


class TargetAmbiguous(Exception):
    """What was named does not say which LU is meant: a portal with several targets or none, or a
    LUN in a form that is not known here."""


class OtherController(CommandPort, Protocol):
    """A session to a target (`backend/second_controller.py`)."""

    @property
    def units(self) -> Mapping[int, LuFacts]: ...

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    def device(self, lun: int) -> BlockDevice: ...


class ConnectionMaker(Protocol):
    """Makes sessions to other machines (`connections.py`)."""

    def connect(self, name: str, iqn: str, portal: str) -> OtherController:
        """A controller for a target behind a portal (HOST:PORT), not open yet."""
        ...

    async def find_targets(self, portal: str) -> Sequence[str]:
        """iSCSI names of the targets that a portal offers. Raises DeviceError."""
        ...


class OtherLu(NamedTuple):
    """A logical unit on another machine."""

    name: str
    """Of its place."""
    block_size: int
    blocks: int


class _Session:
    """One target on another machine, and who uses it."""

    def __init__(self, name: str, iqn: str, portal: str, controller: OtherController) -> None:
        self.name = name
        self.iqn = iqn
        self.portal = portal
        self.controller = controller
        self.holders = 0
        self.opening = asyncio.Lock()
        self.is_open = False
        self.idle: asyncio.TimerHandle | None = None


class OtherMachines:
    """The sessions to targets that nobody attached."""

    def __init__(self, devices: Devices, connections: ConnectionMaker) -> None:
        self._devices = devices
        self._connections = connections
        self._sessions: dict[str, _Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def only_target(self, portal: str) -> str:
        """The iSCSI name of the one target behind a portal. Raises DeviceError, TargetAmbiguous."""
        names = await self._connections.find_targets(portal)
        if len(names) != 1:
            raise TargetAmbiguous(f"{portal} has {len(names)} targets")
        return names[0]

    async def hold(self, iqn: str, portal: str, lun: int) -> OtherLu:
        """The LU with this number at a target behind a portal (HOST:PORT). `release` it by its
        name. Raises DeviceError when it cannot be reached."""
        attached = self.attached(iqn, lun)
        if attached is not None:
            place = self._devices.place(str(attached))
            return OtherLu(str(attached), place.block_size, place.blocks)
        session = self._session(iqn, portal)
        session.holders += 1
        if session.idle is not None:
            session.idle.cancel()
            session.idle = None
        try:
            async with session.opening:
                if not session.is_open:
                    await session.controller.open()
                    session.is_open = True
            return self._lu(session, lun)
        except BaseException:
            self._let_go(session)
            raise

    def attached(self, iqn: str, lun: int) -> DeviceId | None:
        """The device that this LU is where its target is a back end of ours: a target has one
        name at whatever portal it is reached."""
        for device, address in self._devices.directory().items():
            if (address.iqn, address.lun) == (iqn, lun):
                return device
        return None

    async def release(self, names: Iterable[str]) -> None:
        """Give up what was held under these names."""
        for name in names:
            session = self._sessions.get(name.rpartition("/")[0])
            if session is not None:
                self._let_go(session)

    def portal_of(self, iqn: str) -> str | None:
        """Where a target is that was named without a portal: known only for attached ones."""
        for address in self._devices.directory().values():
            if address.iqn == iqn and address.portals:
                return address.portals[0]
        return None

    async def close(self) -> None:
        """Log out everywhere."""
        for session in tuple(self._sessions.values()):
            self._close(session)
        while self._closing:
            await asyncio.wait(self._closing)

    # --- as devices -----------------------------------------------------------------------------

    def find(self, backend: str) -> OtherController | None:
        """The controller that has this name among devices."""
        session = self._sessions.get(backend)
        return None if session is None else session.controller

    def place(self, name: str) -> Place | None:
        """The place of a held LU."""
        backend, _, lun = name.rpartition("/")
        session = self._sessions.get(backend)
        if session is None:
            return None
        lu = self._lu(session, int(lun))
        return Place.of_device(self._address(session, int(lun)), lu.blocks)

    def addresses(self) -> dict[DeviceId, DeviceAddress]:
        """How second commands name the held LUs."""
        return {
            DeviceId(session.name, lun): self._address(session, lun)
            for session in self._sessions.values()
            if session.is_open
            for lun, facts in session.controller.units.items()
            if facts.capacity is not None
        }

    # --- sessions -------------------------------------------------------------------------------

    def _session(self, iqn: str, portal: str) -> _Session:
        name = f"{portal},{iqn}"
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions) >= _MOST_SESSIONS:
                self._make_room()
            controller = self._connections.connect(name, iqn, portal)
            session = self._sessions[name] = _Session(name, iqn, portal, controller)
        return session

    def _make_room(self) -> None:
        idle = next((session for session in self._sessions.values() if not session.holders), None)
        if idle is None:
            raise Unreachable(f"{_MOST_SESSIONS} sessions to other machines are in use")
        self._close(idle)

    def _lu(self, session: _Session, lun: int) -> OtherLu:
        facts = session.controller.units.get(lun)
        if facts is None or facts.capacity is None:
            raise Unreachable(f"{session.name} has no disk with LUN {lun}")
        return OtherLu(
            str(DeviceId(session.name, lun)), facts.capacity.block_size, facts.capacity.blocks
        )

    def _address(self, session: _Session, lun: int) -> DeviceAddress:
        facts = session.controller.units[lun]
        assert facts.capacity is not None
        return DeviceAddress(
            device=DeviceId(session.name, lun),
            block_size=facts.capacity.block_size,
            designators=tuple(designator.pack() for designator in facts.identity),
            iqn=session.iqn,
            portals=(session.portal,),
            lun=lun,
            third_party_copy=facts.inquiry.third_party_copy,
        )

    def _let_go(self, session: _Session) -> None:
        session.holders -= 1
        if session.holders:
            return
        if session.is_open:
            loop = asyncio.get_running_loop()
            session.idle = loop.call_later(_IDLE_SECONDS, self._close, session)
        else:
            self._close(session)

    def _close(self, session: _Session) -> None:
        if session.idle is not None:
            session.idle.cancel()
        if self._sessions.get(session.name) is session:
            del self._sessions[session.name]
        task = asyncio.ensure_future(self._log_out(session))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _log_out(self, session: _Session) -> None:
        try:
            await session.controller.close()
        except DeviceError as error:
            log.warning("log-out failed", target=session.name, error=str(error))


class WithOtherMachines:
    """The devices of the system and those that copies hold elsewhere."""

    def __init__(self, devices: Devices, others: OtherMachines) -> None:
        self._devices = devices
        self._others = others

    def block_device(self, device: DeviceId) -> BlockDevice:
        controller = self._others.find(device.backend)
        if controller is not None:
            return controller.device(device.lun)
        return self._devices.block_device(device)

    def destination(self, piece: Piece) -> BlockDevice:
        if self._others.find(piece.device.backend) is not None:
            return self.block_device(piece.device)
        return self._devices.destination(piece)

    def writing(self, pieces: Sequence[Piece]) -> AbstractAsyncContextManager[None]:
        own = [piece for piece in pieces if self._others.find(piece.device.backend) is None]
        return self._devices.writing(own)

    def second_controller(self, name: str) -> CommandPort:
        return self._others.find(name) or self._devices.second_controller(name)

    def function_table(self) -> FunctionTable:
        return self._devices.function_table()

    def directory(self) -> Mapping[DeviceId, DeviceAddress]:
        others = self._others.addresses()
        return {**self._devices.directory(), **others} if others else self._devices.directory()

    def place(self, name: str) -> Place:
        return self._others.place(name) or self._devices.place(name)

    def track(self, volume: str) -> Tracking:
        if self._others.place(volume) is not None:
            raise LookupError(f"{volume} lies on another machine")
        return self._devices.track(volume)

    def untrack(self, volume: str, tracking: Tracking) -> None:
        self._devices.untrack(volume, tracking)

    def time_commands(self, place: str, times: CommandTimes) -> Callable[[], None]:
        if self._others.place(place) is not None:
            raise LookupError(f"{place} lies on another machine")
        return self._devices.time_commands(place, times)
