"""A logical unit of a second controller as a block device.

A request becomes one READ or WRITE, its CDB packed by a compiled layout, or several that are in
flight together when it is longer than the unit takes at once (page B0h, MAXIMUM TRANSFER LENGTH).
The parts of a split read are received into their places in one buffer.

What the unit cannot do is not imitated here, with one exception: FUA without DPOFUA is a write and
a flush. `device/emulate.py` is for the rest.

COMPARE AND WRITE and ORWRITE of the same blocks are sent one after the other. The unit has to keep
them apart by itself (SBC-4, 5.3, 5.22), but there are targets that work on several at a time and do
not: tgt loses bits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from daiko.backend.lba_runs import runs
from daiko.backend.lu_facts import LuFacts
from daiko.backend.refusal import device_error
from daiko.backend.sanitize import Port, action_of, exit_failure_mode, follow
from daiko.device.block import (
    Atomic,
    BlockDevice,
    Buffer,
    Capabilities,
    Done,
    Level,
    PrefetchDone,
    ReadDone,
    StatusDone,
)
from daiko.device.emulate import write_fua
from daiko.device.error import (
    DeviceError,
    MediumFailure,
    OutOfRange,
    Refused,
    Unreachable,
    Unsupported,
)
from daiko.device.range_lock import RangeLock
from daiko.device.sanitize import Sanitization, SanitizeWatcher
from daiko.initiator.command import AskedCommand, Command
from daiko.scsi.block_data import LbaRange, pack_unmap
from daiko.scsi.opcode import Opcode, Sanitize, Status
from daiko.scsi.report import lun_field
from daiko.scsi.sbc import (
    CompareAndWrite,
    GetLbaStatus,
    Orwrite16,
    Prefetch16,
    SynchronizeCache10,
    Unmap,
    WriteAtomic16,
    WriteSame16,
)
from daiko.scsi.sense import power_on_reset_or_bus_device_reset
from daiko.scsi.vpd import READS_AFTER_ERASE, BlockLimits, ProvisioningType

_pack_range_10: Final[Callable[..., bytes]] = struct.Struct(">BBIBHB").pack
"""opcode, flags, lba, group, blocks, control: READ (10), WRITE (10)."""
_pack_range_16: Final[Callable[..., bytes]] = struct.Struct(">BBQIBB").pack
"""opcode, flags, lba, blocks, group, control: READ (16), WRITE (16)."""
_READ_10: Final = int(Opcode.READ_10)
_WRITE_10: Final = int(Opcode.WRITE_10)
_FUA: Final = 0x08
_LONGEST_TRANSFER: Final = 1 << 20
"""Bytes in one command: what fits the buffers of every target, and keeps a long request from
holding up short ones."""
_WRITE_SAME_BLOCKS: Final = (1 << 32) - 1
_STATUS_LENGTH: Final = 8 + 16 * 63
"""Bytes of GET LBA STATUS data asked for: 63 descriptors."""
_SYNCHRONIZE_ALL: Final = SynchronizeCache10.pack(lba=0, transfer_length=0)


class _Together:
    """The completion of several commands as one: the first error counts."""

    __slots__ = ("done", "error", "left")

    def __init__(self, count: int, done: Done) -> None:
        self.left = count
        self.done = done
        self.error: DeviceError | None = None

    def part(self, error: DeviceError | None) -> None:
        if error is not None and self.error is None:
            self.error = error
        self.left -= 1
        if not self.left:
            self.done(self.error)


class _Transfer(Command):
    """A READ or WRITE of one command; nothing else is made for it.

    Its fields are set in line by `RemoteLu`."""

    __slots__ = ("lba", "unit")

    unit: RemoteLu
    lba: int


class _Read(_Transfer):
    __slots__ = ("then",)

    then: ReadDone

    def end(self, error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        if error is None and not status and len(data) == self.read_length:
            self.then(None, data)
        else:
            self.then(self.unit.read_error(error, status, sense, self.lba), b"")


class _Write(_Transfer):
    __slots__ = ("then",)

    then: Done

    def end(self, error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        if status and error is None:
            what = f"{self.unit.name}: WRITE at {self.lba}"
            error = device_error(status, sense, what, writing=True)
        self.then(error)


class RemoteLu(BlockDevice):
    """Blocks behind an iSCSI target. `learn` gives it its size and abilities."""

    def __init__(self, port: Port, name: str, lun: int) -> None:
        self.lun = lun
        self.name = name
        """`sd1/0`: for messages."""
        self._port = port
        self._field = lun_field(lun)
        self.block_size = 512
        self.blocks = 0
        self.capabilities = Capabilities(Level.NONE, Level.NONE, Level.NONE, Level.EMULATED)
        self.absence = "it has not been looked at yet"
        """Why the unit cannot be used; "" when it can."""
        self._limit = 1
        self._compare_limit = 0
        self._unmap_limit = 0
        self._unmaps_by_write_same = False
        self._write_same_limit = 0
        self._has_cache = True
        self._resets = 0
        self._is_thin = False
        self._has_or_write = False
        self._has_prefetch = False
        self._sanitizes: frozenset[Sanitize] = frozenset()
        self._limits = BlockLimits()
        self._alone = RangeLock()

    # --- what is known of it

    def learn(self, facts: LuFacts) -> None:
        """Take over size and abilities. The block size of a unit in use does not change."""
        capacity = facts.capacity
        if capacity is None:
            self.absence = f"{self.name} is no disk that is ready"
            return
        limits, provisioning = facts.limits, facts.provisioning
        self.block_size = capacity.block_size
        self.blocks = capacity.blocks
        self._limit = max(1, _LONGEST_TRANSFER // capacity.block_size)
        if limits.max_transfer:
            self._limit = min(self._limit, limits.max_transfer)
        has = facts.has_command
        self._compare_limit = limits.max_compare_and_write * has(Opcode.COMPARE_AND_WRITE)
        self._unmap_limit = limits.max_unmap if provisioning.lbpu and has(Opcode.UNMAP) else 0
        can_repeat = bool(provisioning.lbpws or limits.max_write_same) and has(Opcode.WRITE_SAME_16)
        self._write_same_limit = (
            min(limits.max_write_same or _WRITE_SAME_BLOCKS, _WRITE_SAME_BLOCKS)
            if can_repeat
            else 0
        )
        # LBPWS: WRITE SAME (16) with the UNMAP bit, which is all that some units have.
        self._unmaps_by_write_same = bool(
            provisioning.lbpws and can_repeat and not self._unmap_limit
        )
        self._is_thin = capacity.lbpme
        self._limits = limits
        # Nothing but the list of commands tells of these.
        self._has_or_write = facts.lists_command(Opcode.ORWRITE_16)
        self._has_prefetch = facts.lists_command(Opcode.PREFETCH_16)
        self._sanitizes = _sanitizes(facts)
        atomic = min(limits.max_atomic, self._limit) if has(Opcode.WRITE_ATOMIC_16) else 0
        native = {True: Level.NATIVE, False: Level.NONE}
        self.capabilities = Capabilities(
            unmap=native[self._unmap_limit > 0 or self._unmaps_by_write_same],
            write_same=native[can_repeat],
            compare_and_write=native[self._compare_limit > 0],
            fua=Level.NATIVE if facts.has_fua else Level.EMULATED,
            rotational=facts.characteristics.rotation_rate > 1,
            read_only=facts.write_protected,
            optimal_blocks=limits.optimal_granularity or 1 << capacity.physical_exponent,
            unmap_granularity=max(1, limits.unmap_granularity),
            unmapped_reads_zero=capacity.lbprz or bool(provisioning.lbprz & 1),
            physical_exponent=capacity.physical_exponent if not capacity.lowest_aligned_lba else 0,
            keeps_room=provisioning.provisioning_type == ProvisioningType.RESOURCE,
            atomic_blocks=atomic,
        )
        self.absence = ""

    def withdraw(self, reason: str) -> None:
        """Requests complete with Unreachable from now on, until `learn`."""
        self.absence = reason

    def _refusal(self, lba: int, blocks: int) -> DeviceError | None:
        if self.absence:
            return Unreachable(f"{self.name}: {self.absence}")
        if lba < 0 or blocks < 0 or lba + blocks > self.blocks:
            return OutOfRange(f"{self.name}: blocks {lba}..{lba + blocks - 1} of {self.blocks}")
        return None

    # --- reading and writing

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if self.absence or lba < 0 or lba + blocks > self.blocks or blocks <= 0:
            done(self._refusal(lba, blocks), b"")
            return
        if blocks > self._limit:
            self._read_parts(lba, blocks, done)
            return
        port = self._port
        command = _Read()
        command.unit = self
        command.lba = lba
        command.then = done
        command.lun = self._field
        command.cdb = _range(_READ_10, lba, blocks, 0)
        command.data_out = b""
        command.read_length = blocks * self.block_size
        command.timeout = port.command_timeout
        command.replay = True
        command.urgent = False
        command.buffer = None
        command.data = b""
        command.attempts = 0
        command.begun = 0.0
        command.portal_group_tag = 0
        port.send(command)

    def _read_parts(self, lba: int, blocks: int, done: ReadDone) -> None:
        size, limit = self.block_size, self._limit
        buffer = bytearray(blocks * size)
        view = memoryview(buffer)
        starts = range(0, blocks, limit)

        def all_read(error: DeviceError | None) -> None:
            done(error, b"" if error is not None else buffer)

        together = _Together(len(starts), all_read)
        for start in starts:
            count = min(limit, blocks - start)
            self._read_part(
                lba + start, count, view[start * size : (start + count) * size], together
            )

    def _read_part(self, lba: int, blocks: int, place: memoryview, together: _Together) -> None:
        def completed(error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
            if error is None and not status and len(data) == len(place):
                together.part(None)
            else:
                together.part(self.read_error(error, status, sense, lba))

        self._port.send(
            AskedCommand(
                self._field,
                _range(_READ_10, lba, blocks, 0),
                completed,
                b"",
                len(place),
                timeout=self._port.command_timeout,
                replay=True,
                buffer=place,
            )
        )

    def read_error(
        self, error: DeviceError | None, status: int, sense: bytes, lba: int
    ) -> DeviceError:
        what = f"{self.name}: READ at {lba}"
        return (
            error
            or device_error(status, sense, what, writing=False)
            or MediumFailure(f"{what} gave less data than was asked for", writing=False, lba=lba)
        )

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        blocks = len(data) // self.block_size
        if self.absence or lba < 0 or lba + blocks > self.blocks or blocks <= 0:
            done(self._refusal(lba, blocks))
            return
        if fua and self.capabilities.fua is not Level.NATIVE:
            write_fua(self, lba, data, done)
            return
        flags = _FUA if fua else 0
        limit = self._limit
        if blocks <= limit:
            self._write_part(lba, blocks, data, flags, done)
            return
        view, size = memoryview(data), self.block_size
        starts = range(0, blocks, limit)
        together = _Together(len(starts), done)
        for start in starts:
            count = min(limit, blocks - start)
            part = view[start * size : (start + count) * size]
            self._write_part(lba + start, count, part, flags, together.part)

    def _write_part(self, lba: int, blocks: int, data: Buffer, flags: int, done: Done) -> None:
        port = self._port
        command = _Write()
        command.unit = self
        command.lba = lba
        command.then = done
        command.lun = self._field
        command.cdb = _range(_WRITE_10, lba, blocks, flags)
        command.data_out = data
        command.read_length = 0
        command.timeout = port.command_timeout
        command.replay = True
        command.urgent = False
        command.buffer = None
        command.data = b""
        command.attempts = 0
        command.begun = 0.0
        command.portal_group_tag = 0
        port.send(command)

    def was_reset(self) -> None:
        """The unit reported a reset or a power cycle: what its cache held may be gone."""
        self._resets += 1

    def flush(self, done: Done) -> None:
        if self.absence or not self._has_cache:
            done(self._refusal(0, 0))
            return

        resets = self._resets

        def synchronized(error: DeviceError | None) -> None:
            if isinstance(error, Unsupported):
                # A unit without the command has no volatile cache to write back.
                self._has_cache = False
                error = None
            if error is None and self._resets != resets:
                # What it was to bring to stable storage may have been lost before it came.
                error = Refused(
                    f"{self.name} was reset while its cache was to be written back",
                    status=Status.CHECK_CONDITION,
                    sense=power_on_reset_or_bus_device_reset().fixed(),
                )
            done(error)

        self._change(_SYNCHRONIZE_ALL, b"", synchronized, "SYNCHRONIZE CACHE")

    # --- optional operations

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        limit = self._unmap_limit
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal)
        elif self._unmaps_by_write_same:
            self._repeat(lba, blocks, bytes(self.block_size), done, unmap=1)
        elif not limit:
            super().unmap(lba, blocks, done)
        else:
            starts = range(0, blocks, limit)
            together = _Together(len(starts), done)
            for start in starts:
                data = pack_unmap([LbaRange(lba + start, min(limit, blocks - start))])
                cdb = Unmap.pack(parameter_list_length=len(data))
                self._change(cdb, data, together.part, f"UNMAP at {lba + start}")

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal)
        elif not self._write_same_limit:
            super().write_same(lba, blocks, pattern, done)
        else:
            self._repeat(lba, blocks, pattern, done, unmap=0)

    def _repeat(self, lba: int, blocks: int, pattern: Buffer, done: Done, *, unmap: int) -> None:
        limit = self._write_same_limit
        starts = range(0, blocks, limit)
        together = _Together(len(starts), done)
        for start in starts:
            count = min(limit, blocks - start)
            cdb = WriteSame16.pack(lba=lba + start, transfer_length=count, unmap=unmap)
            self._change(cdb, pattern, together.part, f"WRITE SAME at {lba + start}")

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        blocks = len(compare) // self.block_size
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal)
        elif blocks > self._compare_limit:
            done(Unsupported(f"{self.name} compares and writes {self._compare_limit} blocks"))
        else:
            cdb = CompareAndWrite.pack(lba=lba, transfer_length=blocks)
            both = bytes(compare) + bytes(data)
            # Never sent twice: after a first success the second would find a miscompare.
            what = f"COMPARE AND WRITE at {lba}"

            def send(ticket: int) -> None:
                self._change(cdb, both, self._left(ticket, done), what, replay=False)

            self._alone.wait_exclusive(lba, blocks, send)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal)
        elif not self._has_or_write or blocks > self._limit:
            done(Unsupported(f"{self.name} has no ORWRITE of {blocks} blocks"))
        else:
            cdb = Orwrite16.pack(lba=lba, transfer_length=blocks)
            # Sent twice it leaves what it leaves when it is sent once.

            def send(ticket: int) -> None:
                self._change(cdb, data, self._left(ticket, done), f"ORWRITE at {lba}")

            self._alone.wait_exclusive(lba, blocks, send)

    def _left(self, ticket: int, done: Done) -> Done:
        """`done` of a command that had its blocks alone."""

        def finished(error: DeviceError | None) -> None:
            done(error)
            self._alone.leave(ticket)

        return finished

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal)
        elif not self._takes_atomic(lba, blocks):
            done(Unsupported(f"{self.name} has no WRITE ATOMIC of {blocks} blocks at {lba}"))
        else:
            cdb = WriteAtomic16.pack(lba=lba, transfer_length=blocks)
            self._change(cdb, data, done, f"WRITE ATOMIC at {lba}")

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        match operation:
            case Atomic.COMPARE_AND_WRITE:
                return blocks <= self._compare_limit
            case Atomic.OR_WRITE:
                return self._has_or_write and blocks <= self._limit
            case Atomic.WRITE:
                return self._takes_atomic(lba, blocks)

    def _takes_atomic(self, lba: int, blocks: int) -> bool:
        limits = self._limits
        return (
            blocks <= self.capabilities.atomic_blocks
            and lba % (limits.atomic_alignment or 1) == 0
            and blocks % (limits.atomic_granularity or 1) == 0
        )

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None] | None:
        # What it has begun is followed whatever it lists now: at work it may not list anything.
        can_begin = action_of(wanted) in self._sanitizes and wanted.blocks == self.blocks
        if not resume and not can_begin:
            return None
        return follow(self, self._port, wanted, watcher, resume=resume)

    def exit_failure_mode(self, done: Done) -> None:
        if self.absence:
            done(self._refusal(0, 0))
        else:
            exit_failure_mode(self, self._port, done)

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not self._has_prefetch or not blocks:
            done(refusal, False)
            return
        most = self._limits.max_prefetch or blocks

        def completed(error: DeviceError | None, status: int, _: Buffer, sense: bytes) -> None:
            if error is None:
                what = f"{self.name}: PRE-FETCH at {lba}"
                error = device_error(status, sense, what, writing=False, optional=True)
            if isinstance(error, Unsupported):
                self._has_prefetch = False
                error = None
            done(error, status == Status.CONDITION_MET and blocks <= most)

        self._port.send(
            AskedCommand(
                self._field,
                Prefetch16.pack(lba=lba, transfer_length=min(blocks, most)),
                completed,
                timeout=self._port.command_timeout,
                replay=True,
            )
        )

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        refusal = self._refusal(lba, blocks)
        if refusal is not None or not blocks:
            done(refusal, ())
        elif not self._is_thin:
            super().lba_status(lba, blocks, done)
        else:

            def completed(
                error: DeviceError | None, status: int, data: Buffer, sense: bytes
            ) -> None:
                what = f"{self.name}: GET LBA STATUS at {lba}"
                if error is None:
                    error = device_error(status, sense, what, writing=False, optional=True)
                if error is None:
                    done(None, runs(data, lba, blocks))
                elif isinstance(error, Unsupported):
                    self._is_thin = False  # it cannot tell: all is mapped
                    done(None, [(blocks, True)])
                else:
                    done(error, ())

            cdb = GetLbaStatus.pack(lba=lba, allocation_length=_STATUS_LENGTH)
            self._port.send(
                AskedCommand(
                    self._field,
                    cdb,
                    completed,
                    b"",
                    _STATUS_LENGTH,
                    timeout=self._port.command_timeout,
                    replay=True,
                )
            )

    def _change(
        self, cdb: bytes, data: Buffer, done: Done, what: str, *, replay: bool = True
    ) -> None:
        """Send a command of which only the status matters, and that the unit need not have."""

        def completed(error: DeviceError | None, status: int, _: Buffer, sense: bytes) -> None:
            if status and error is None:
                words = f"{self.name}: {what}"
                error = device_error(status, sense, words, writing=True, optional=True)
            done(error)

        self._port.send(
            AskedCommand(
                self._field,
                cdb,
                completed,
                data,
                timeout=self._port.command_timeout,
                replay=replay,
            )
        )


def _sanitizes(facts: LuFacts) -> frozenset[Sanitize]:
    """The service actions of SANITIZE that leave what volumes promise: after BLOCK ERASE every
    block can be read (page B1h, WABEREQ)."""
    offers = {Sanitize.SANITIZE_OVERWRITE}
    if facts.characteristics.wabereq == READS_AFTER_ERASE:
        offers.add(Sanitize.SANITIZE_BLOCK_ERASE)
    return frozenset(each for each in offers if facts.lists_action(Opcode.SANITIZE, each))


def _range(opcode: int, lba: int, blocks: int, flags: int) -> bytes:
    """READ or WRITE: (10), which every disk has, as long as the address and the length fit."""
    if lba + blocks <= 0x1_0000_0000 and blocks < 0x10000:
        return _pack_range_10(opcode, flags, lba, 0, blocks, 0)
    # READ (16) and WRITE (16) lie 60h above READ (10) and WRITE (10).
    return _pack_range_16(opcode + 0x60, flags, lba, blocks, 0, 0)
