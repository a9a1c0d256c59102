"""A logical unit: the gate that every command passes, and what the handlers work with.

`execute` is the data path. A command's way through it: its row (index by opcode) → task order →
reserved bits of the CDB → unit attention → bars (`bar.py`) → range of blocks → handler. Each
check is one look at an integer or at an empty list; nothing is called for a check that has nothing
to say. The handler gives the request to the device with a completion that ends the task.

The unit does not know what its device is: a file, a virtual LU, a layer that counts changes. The
device may be exchanged while the unit works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from daiko.backend.intent_log import IntentLog
from daiko.command_control import command_table
from daiko.command_control.command_table import Addresses, CommandRow
from daiko.device.block import BlockDevice, Buffer
from daiko.device.error import DeviceError
from daiko.scsi import sense
from daiko.scsi.opcode import Opcode
from daiko.scsi.sense import CheckCondition, Sense, SenseKey
from daiko.scsi.vpd import Designator
from daiko.target.asymmetric_access import AsymmetricAccess, TargetPortGroups
from daiko.target.atomic_write import AtomicWrites
from daiko.target.bar import BY_RESERVATION, OF_MEDIUM, answer_to_barred, bars_for
from daiko.target.event import Event, Told
from daiko.target.exclusion import Exclusion
from daiko.target.failure import answer_to
from daiko.target.kept import Keeper
from daiko.target.management import NO_ADDRESSES, ManagementAddresses
from daiko.target.medium import Medium
from daiko.target.mode_settings import (
    DEFAULT,
    ModePageRow,
    ModeSettings,
    from_kept,
    mode_pages,
)
from daiko.target.repertoire import Place, Served, repertoire_of
from daiko.target.reservations import Reservations
from daiko.target.self_test import ABORTED_OTHERWISE, SelfTest
from daiko.target.task_set import TaskSet
from daiko.target.thin_provisioning import Thresholds, has_thresholds, is_thin
from daiko.target.unit_log import UnitLog

if TYPE_CHECKING:
    from daiko.target.nexus import ItlNexus, Nexus
    from daiko.target.task import Task

MAXIMUM_TRANSFER: Final = 8 << 20
"""Bytes that one READ, WRITE or VERIFY may ask for; stated in page B0h and enforced."""


class ThirdPartyCopy(Protocol):
    """The copy manager as a logical unit sees it (SPC-4, 5.17)."""

    def execute(self, unit: LogicalUnit, itl: ItlNexus, task: Task, row: CommandRow) -> None:
        """Carry out a command of the third-party copy set. May raise CheckCondition; else ends
        the task by `itl.finish`, now or later."""

    def aborted(self, task: Task) -> None:
        """Task management wants this task ended: stop the copy, then finish the task."""

    def copies_at(self, unit: LogicalUnit) -> Iterable[tuple[ItlNexus, Task]]:
        """The copies of hosts that read or write this unit, whichever unit received them."""

    def reservations_changed(self, unit: LogicalUnit) -> None:
        """Stop the copies whose host may no longer read or write this unit."""

    def page(self, unit: LogicalUnit) -> bytes:
        """VPD page 8Fh, header included."""

    def nexus_lost(self, nexus: Nexus) -> None:
        """Forget what is kept for this I_T nexus: list identifiers, aliases."""


class SiteCommands(Protocol):
    """What makes a unit a management unit: it answers another site's first controller
    (docs/protocol.md)."""

    def execute(self, unit: LogicalUnit, itl: ItlNexus, task: Task, row: CommandRow) -> None:
        """Carry out a SITE IN or SITE OUT. May raise CheckCondition; else ends the task by
        `itl.finish`, now or later."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a logical unit is; it stays the same over restarts and moves."""

    name: str
    """Of the volume."""
    naa: bytes
    """16 bytes, NAA 6 (SPC-4, 7.8.6.6.5)."""
    vendor: str = "DAIKO"
    product: str = "VIRTUAL LU"
    revision: str = "0001"

    @property
    def serial(self) -> str:
        """Page 80h."""
        return self.naa.hex()


class LogicalUnit:
    """One volume as hosts see it, whatever LUN each of them knows it by."""

    __slots__ = (
        "_places",
        "asymmetric_access",
        "atomic_writes",
        "bare_device",
        "block_size",
        "blocks",
        "data_buffer",
        "device",
        "exclusion",
        "identity",
        "is_write_protected",
        "keeper",
        "log",
        "management",
        "maximum_transfer",
        "medium_state",
        "mode",
        "mode_pages",
        "nexuses",
        "open_intents",
        "read_only",
        "reservations",
        "rows",
        "saves",
        "self_test",
        "site",
        "task_set",
        "third_party_copy",
        "thresholds",
        "timestamp_offset",
        "write_through",
    )

    def __init__(
        self,
        identity: Identity,
        device: BlockDevice,
        *,
        third_party_copy: ThirdPartyCopy | None = None,
        read_only: bool = False,
        port_groups: TargetPortGroups | None = None,
        keeper: Keeper | None = None,
        management: ManagementAddresses | None = None,
        open_intents: Callable[[], IntentLog] | None = None,
        site: SiteCommands | None = None,
    ) -> None:
        self.identity = identity
        self.bare_device = device
        """The device; layers are put over this one, by `replace_device`."""
        self.device = device
        """What commands use: the device, or a guard before it while blocks are in exclusive use."""
        self.third_party_copy = third_party_copy
        self.site = site
        """Of a management unit, which has no blocks and no other commands than it needs."""
        self.block_size = device.block_size
        """Bytes."""
        self.blocks = device.blocks
        """Capacity."""
        self.read_only = read_only or device.capabilities.read_only
        self.keeper = keeper
        """Keeps what a host tells the unit to keep; None: nothing is kept."""
        self.saves = keeper is not None and keeper.is_lasting
        """What is kept is there after a restart: mode pages and identifying information."""
        self.management: ManagementAddresses = management or NO_ADDRESSES
        """Where administrators reach the controller."""
        self.mode_pages: tuple[ModePageRow, ...] = mode_pages(is_thin=is_thin(self))
        """The mode pages that this unit has, in ascending order."""
        self.mode = DEFAULT
        self.is_write_protected = self.read_only
        self.write_through = False
        """Every write is as if it had the FUA bit."""
        self.maximum_transfer = MAXIMUM_TRANSFER // self.block_size
        """Blocks (page B0h)."""
        if device.capabilities.maximum_blocks:
            self.maximum_transfer = min(self.maximum_transfer, device.capabilities.maximum_blocks)
        self.nexuses: set[ItlNexus] = set()
        """Every host in session that sees this unit."""
        self.asymmetric_access = AsymmetricAccess(self, port_groups or TargetPortGroups())
        """What hosts may do through which target port."""
        self.reservations = Reservations(self, keeper)
        self.exclusion: Exclusion | None = None
        """Made when blocks are first wanted in exclusive use (`alone`): few units ever need it."""
        self.task_set = TaskSet(self)
        self.open_intents = open_intents
        """Opens the log that makes atomic writes of ordinary ones; None: there is none."""
        self.atomic_writes: AtomicWrites | None = None
        """Made by `atomic_write.of`."""
        self.log = UnitLog()
        self.self_test: SelfTest | None = None
        """The one that is at work."""
        self.data_buffer: bytearray | None = None
        """Of WRITE BUFFER; None until a host has written to it."""
        self.timestamp_offset: int | None = None
        """Milliseconds to the clock of the machine; None: no host has set the timestamp."""
        self.medium_state: Medium | None = None
        """Made with the first FORMAT UNIT or SANITIZE (`medium`)."""
        self.thresholds: Thresholds | None = None
        """Made when a threshold is enabled."""
        self.rows, self._places = repertoire_of(self)
        """`rows`: the commands that this unit has."""
        self.set_mode(self.saved_mode())

    # ------------------------------------------------------------------ the gate

    def execute(self, itl: ItlNexus, task: Task, is_admitted: bool = False) -> None:
        """Carry out a command; it ends with `task.complete`, now or later. `is_admitted` is for
        the task set, which calls again for a task that it kept back."""
        cdb = task.cdb
        place = self._places[cdb[0]]
        served = place.get(cdb[1] & 0x1F) if isinstance(place, dict) else place
        if not is_admitted:
            task.itl = itl
            itl.tasks.add(task)
            if (task.attribute > 1 or self.task_set.is_gated) and not self._admits(
                itl, task, served
            ):
                return
        if served is None:
            itl.refuse(task, _unknown(place))
            return
        if int.from_bytes(cdb, "little") & served.forbidden:
            itl.refuse(task, _illegal_bit(cdb, served.row))
            return
        if itl.attentions and served.reports_attention:
            itl.refuse(task, itl.report_attention())
            return
        if itl.bars & served.bars and self._is_barred(itl, task, served):
            return
        try:
            decode = served.decode
            if decode is None:
                served.handler(self, itl, task)
                return
            flags, lba, blocks = decode(cdb)
            if lba + blocks > self.blocks or not 0 < blocks <= self.maximum_transfer:
                blocks = self._check_range(served.row, lba, blocks)
            served.handler(self, itl, task, flags, lba, blocks)
        except CheckCondition as refused:
            itl.refuse(task, refused.sense)

    def _admits(self, itl: ItlNexus, task: Task, served: Served | None) -> bool:
        if task.attribute == ACA:
            itl.refuse(task, sense.invalid_message_error())
            return False
        if served is None or not served.has_task_order:
            return True
        return self.task_set.admit(itl, task)

    def _is_barred(self, itl: ItlNexus, task: Task, served: Served) -> bool:
        """End the task with what bars it, unless it turns out that this form of it is not."""
        bars = itl.bars & served.bars
        if bars & BY_RESERVATION and command_table.passes_reservations(served.row, task.cdb):
            bars &= ~BY_RESERVATION
            if not bars:
                return False
        status, condition = answer_to_barred(bars)
        if isinstance(condition, Sense) and condition.key == SenseKey.NOT_READY:
            condition = self.pollable_sense() if bars & OF_MEDIUM else condition
        self._end(itl, task, status, condition)
        return True

    def pollable_sense(self) -> Sense:
        """How far a FORMAT UNIT or SANITIZE is; NO SENSE where none is at work."""
        return sense.no_sense() if self.medium_state is None else self.medium_state.condition()

    @property
    def medium(self) -> Medium:
        """FORMAT UNIT and SANITIZE."""
        if self.medium_state is None:
            self.medium_state = Medium(self)
        return self.medium_state

    def _check_range(self, row: CommandRow, lba: int, blocks: int) -> int:
        """The range that the quick check stopped at: refuse it, or return its length."""
        if lba >= self.blocks or lba + blocks > self.blocks:
            raise CheckCondition(sense.lba_out_of_range())
        if row.addresses is Addresses.RANGE_OR_REST:
            return blocks or self.blocks - lba
        if blocks > self.maximum_transfer:
            raise CheckCondition(sense.invalid_field_in_cdb(command_table.length_byte(row)))
        return blocks

    # ------------------------------------------------------------------ for the handlers

    def device_for(self, task: Task) -> BlockDevice:
        """The device for a command that makes several requests one after the other: it takes its
        device once, here. A command of one request uses `device` when it makes that."""
        return self.device if self.exclusion is None else self.exclusion.device_for(task)

    @property
    def alone(self) -> Exclusion:
        """Who has blocks for himself."""
        if self.exclusion is None:
            self.exclusion = Exclusion(self)
        return self.exclusion

    def receive(
        self, itl: ItlNexus, task: Task, length: int, then: Callable[[Buffer], None]
    ) -> None:
        """Collect `length` bytes and pass them on. A `CheckCondition` that `then` raises ends the
        task. Fewer bytes than that (the initiator announced fewer) are passed on as they are."""

        def received(data: Buffer) -> None:
            try:
                then(data)
            except CheckCondition as refused:
                itl.refuse(task, refused.sense)

        task.fetch(length, received)

    def receive_exactly(
        self, itl: ItlNexus, task: Task, length: int, then: Callable[[Buffer], None]
    ) -> None:
        """`receive` for commands that mean nothing with part of their data: an initiator that
        announced more or less than `length` is refused."""
        if task.expected_out != length:
            raise CheckCondition(sense.invalid_field_in_command_information_unit())
        self.receive(itl, task, length, then)

    def fail(self, itl: ItlNexus, task: Task, error: DeviceError) -> None:
        """End a task with what the device's error means to a host."""
        self.log.note_failure(error)
        self._end(itl, task, *answer_to(error))

    def _end(self, itl: ItlNexus, task: Task, status: int, reported: Sense | bytes | None) -> None:
        if isinstance(reported, Sense):
            reported = self.sense_bytes(reported)
        itl.finish(task, status, (), reported or b"")

    def sense_bytes(self, condition: Sense) -> bytes:
        """In the format that the control mode page asks for (D_SENSE), and no longer than the
        control extension mode page allows."""
        mode = self.mode
        return condition.pack(
            descriptor_format=mode.descriptor_sense, limit=mode.maximum_sense_length
        )

    @property
    def designators(self) -> tuple[Designator, ...]:
        """What page 83h says of the unit itself, best first."""
        identity = self.identity
        return (
            Designator.naa(identity.naa),
            Designator.t10_vendor_id(identity.vendor, identity.serial),
        )

    # ------------------------------------------------------------------ for the controller

    def attach(self, itl: ItlNexus) -> None:
        """A host in session sees this unit from now on."""
        self.nexuses.add(itl)
        itl.attentions.establish(Event.POWER_ON_OR_RESET.sense)
        self.reservations.attached(itl)
        itl.bars = bars_for(self, itl)

    def detach(self, itl: ItlNexus, *, is_session_lost: bool) -> None:
        """A host does not see this unit any more: its session is lost, or the unit was taken from
        it. What it has begun ends at the device."""
        self.nexuses.discard(itl)
        self.reservations.detached(itl)
        self.task_set.nexus_lost(itl, is_session_lost=is_session_lost)

    def refresh_bars(self) -> None:
        """Something that bars commands has changed: write it down for every host."""
        for itl in self.nexuses:
            itl.bars = bars_for(self, itl)

    def replace_device(self, device: BlockDevice) -> None:
        """Exchange the device while hosts work: requests under way end at the old one. Raises
        ValueError when the new one is not of the same geometry."""
        if (device.block_size, device.blocks) != (self.block_size, self.blocks):
            raise ValueError("the new device is of another size")
        self._take_device(device)

    def resize(self, device: BlockDevice) -> None:
        """Exchange the device for one of larger capacity, and tell the hosts. Raises ValueError for
        one that is smaller or has other blocks."""
        if device.block_size != self.block_size or device.blocks < self.blocks:
            raise ValueError("a unit only grows, and keeps its block size")
        self._take_device(device)
        self.blocks = device.blocks
        self.announce(Event.CAPACITY_CHANGED)

    def protect(self, protected: bool) -> None:
        """Take no writes of hosts any more, or take them again, and tell them (SBC-4, 6.5.1)."""
        wanted = protected or self.bare_device.capabilities.read_only
        if wanted != self.read_only:
            self.read_only = wanted
            self.set_mode(self.mode)
            self.announce(Event.MODE_PARAMETERS_CHANGED)

    def announce(
        self, event: Event, *, by: ItlNexus | None = None, to: Iterable[ItlNexus] = ()
    ) -> None:
        """Tell the hosts of an event, those that its row names: `by` is the one whose command
        caused it, `to` are those that it happened to."""
        told = to if event.told is Told.CONCERNED else self.nexuses
        for itl in told:
            if itl is not by or event.told is not Told.OTHERS:
                itl.attentions.establish(event.sense)

    def refresh_commands(self) -> None:
        """The unit may have other commands now: take them, and tell the hosts where it has."""
        rows, self._places = repertoire_of(self)
        if rows != self.rows:
            self.rows = rows
            self.announce(Event.INQUIRY_DATA_CHANGED)

    def _take_device(self, device: BlockDevice) -> None:
        self.bare_device = device
        self.device = device if self.exclusion is None else self.exclusion.replace(device)
        self.mode_pages = mode_pages(is_thin=is_thin(self))
        # A volume that was published while its back end was away learns now what it can do.
        self.refresh_commands()
        if self.atomic_writes is not None:
            self.atomic_writes.devices_changed()

    def saved_mode(self) -> ModeSettings:
        """The mode parameters that hold after a reset: the saved ones, else the defaults."""
        kept = None if self.keeper is None else self.keeper.kept.mode_pages
        return DEFAULT if kept is None else from_kept(kept)

    def set_mode(self, parameters: ModeSettings) -> None:
        """Work by these mode parameters from now on."""
        self.mode = parameters
        self.is_write_protected = self.read_only or parameters.software_write_protect
        self.write_through = not parameters.write_cache
        self.refresh_bars()
        if self.thresholds is None and has_thresholds(self):
            self.thresholds = Thresholds(self)
        if self.thresholds is not None:
            self.thresholds.follow()

    def reset(
        self,
        done: Callable[[], None],
        by: Nexus | None = None,
        event: Event = Event.LOGICAL_UNIT_RESET,
    ) -> None:
        """Logical unit reset (SAM-5, 6.3.3): all tasks of all hosts end, mode parameters are the
        saved ones again, echo buffers are empty, a self-test ends, and every host is told."""
        self.set_mode(self.saved_mode())
        self.reservations.reset()
        for itl in self.nexuses:
            itl.echo = None
        self.task_set.abort(self.task_set.tasks(), done, by)
        if self.self_test is not None:
            self.self_test.abort(ABORTED_OTHERWISE)
        self.announce(event)

    def call_back(self, task: Task) -> None:
        """Task management wants this task ended and cannot end it: it is at the device, which
        ends it in its own time, or with the copy manager, which can be told."""
        if task.cdb[0] == Opcode.EXTENDED_COPY and self.third_party_copy is not None:
            self.third_party_copy.aborted(task)
        elif self.medium_state is not None:
            self.medium_state.let_go(task)


def _unknown(place: Place) -> Sense:
    """Of an opcode that has no row at all, or none with this service action."""
    return sense.invalid_opcode() if place is None else sense.invalid_field_in_cdb(1, 4)


def _illegal_bit(cdb: bytes, row: CommandRow) -> Sense:
    stray = row.layout.stray_bit(cdb)
    assert stray is not None
    return sense.invalid_field_in_cdb(*stray)


ACA: Final = 4
"""Task attribute (SAM-5, 8.4): there is no ACA condition here that such a task could serve."""
