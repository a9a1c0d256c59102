"""A SCSI task without a transport, a device that answers when it is told to, and a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from daiko.backend.memory import MemoryDevice
from daiko.device.block import (
    Atomic,
    BlockDevice,
    Buffer,
    Capabilities,
    Done,
    Level,
    ReadDone,
    Room,
)
from daiko.device.error import DeviceError
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense, parse_sense
from daiko.target.access import Access
from daiko.target.kept import NOTHING_KEPT, Kept, MediumWork
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.nexus import Nexus
from daiko.target.registrations import Registrations
from daiko.target.task import Task, TaskAttribute

NAA = bytes.fromhex("602da100000000000000000000000001")


class FakeTask(Task):
    """A command whose data is all here (or, with `slow_data`, comes when `deliver` is called)."""

    __slots__ = (
        "_data",
        "_slow",
        "_then",
        "answers",
        "data_in",
        "fetched",
        "sense",
        "sense_bytes",
        "status",
    )

    def __init__(
        self,
        nexus: Nexus,
        cdb: bytes,
        data: bytes = b"",
        *,
        lun: int = 0,
        tag: int = 1,
        attribute: TaskAttribute = TaskAttribute.SIMPLE,
        expected_in: int = 1 << 24,
        slow_data: bool = False,
    ) -> None:
        self.nexus = nexus
        self.lun = lun << 48
        self.tag = tag
        self.cdb = cdb.ljust(16, b"\0")
        self.attribute = attribute
        self.expected_out = len(data)
        self.expected_in = expected_in
        self.aborted = False
        self.fetching = False
        self._data = data
        self._slow = slow_data
        self._then: Callable[[Buffer], None] | None = None
        self.fetched: int | None = None
        """Bytes that the unit asked for."""
        self.answers = 0
        self.status: int | None = None
        self.data_in = b""
        self.sense: Sense | None = None
        self.sense_bytes = b""

    def fetch(self, length: int, then: Callable[[Buffer], None]) -> None:
        assert self.fetched is None, "fetched twice"
        self.fetched = length
        if self._slow:
            self.fetching = True
            self._then = then
        else:
            then(memoryview(self._data)[:length])

    def deliver(self) -> None:
        """The initiator's data arrives."""
        then = self._then
        assert then is not None
        assert self.fetched is not None
        self.fetching = False
        then(memoryview(self._data)[: self.fetched])

    def complete(self, status: int, data: Sequence[Buffer] = (), sense: bytes = b"") -> None:
        self.answers += 1
        assert self.answers == 1, "completed twice"
        if self.aborted:
            return
        self.status = status
        self.data_in = b"".join(bytes(part) for part in data)[: self.expected_in]
        self.sense_bytes = sense
        self.sense = parse_sense(sense) if sense else None

    @property
    def condition(self) -> tuple[int, int, int] | None:
        """(key, asc, ascq) of a CHECK CONDITION."""
        if self.sense is None:
            return None
        assert self.status == Status.CHECK_CONDITION
        return (self.sense.key, self.sense.asc, self.sense.ascq)


class SlowDevice(BlockDevice):
    """Keeps every request until it is told to carry one out, or to fail one."""

    def __init__(
        self, blocks: int = 1024, block_size: int = 512, *, has_atomics: bool = True
    ) -> None:
        self.has_atomics = has_atomics
        self.below = MemoryDevice(blocks, block_size)
        self.block_size = block_size
        self.blocks = blocks
        self.capabilities = self.below.capabilities
        self.requests: list[tuple[str, Callable[[], None], Callable[[DeviceError], None]]] = []

    def _keep(
        self, name: str, begin: Callable[[], None], fail: Callable[[DeviceError], None]
    ) -> None:
        self.requests.append((name, begin, fail))

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self._keep(
            "read", lambda: self.below.read(lba, blocks, done), lambda error: done(error, b"")
        )

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        name = "write fua" if fua else "write"
        self._keep(name, lambda: self.below.write(lba, data, done, fua), done)

    def flush(self, done: Done) -> None:
        self._keep("flush", lambda: self.below.flush(done), done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._keep("unmap", lambda: self.below.unmap(lba, blocks, done), done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self._keep("write same", lambda: self.below.write_same(lba, blocks, pattern, done), done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        self._keep(
            "compare and write",
            lambda: self.below.compare_and_write(lba, compare, data, done),
            done,
        )

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        self._keep("or write", lambda: self.below.or_write(lba, data, done), done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        self._keep("write atomic", lambda: self.below.write_atomic(lba, data, done), done)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return self.has_atomics

    @property
    def waiting(self) -> list[str]:
        return [name for name, _, _ in self.requests]

    def step(self) -> None:
        """Carry out the oldest request."""
        self.requests.pop(0)[1]()

    def fail(self, error: DeviceError) -> None:
        """Let the oldest request fail."""
        self.requests.pop(0)[2](error)


class MemoryKeeper:
    """Keeps in memory what a unit is to keep (`kept.Keeper`): when it is told to, or fails to."""

    def __init__(
        self,
        kept: Kept = NOTHING_KEPT,
        registrations: Registrations | None = None,
        *,
        is_lasting: bool = True,
    ) -> None:
        self.kept = kept
        self.registrations = registrations or Registrations()
        self.is_lasting = is_lasting
        self.medium_work: MediumWork | None = None
        self.waiting: list[
            tuple[Kept | Registrations | MediumWork | None, Callable[[bool], None]]
        ] = []

    def keep(self, kept: Kept, done: Callable[[bool], None]) -> None:
        self.waiting.append((kept, done))

    def keep_registrations(self, state: Registrations, done: Callable[[bool], None]) -> None:
        self.waiting.append((state, done))

    def keep_medium_work(self, work: MediumWork | None, done: Callable[[bool], None]) -> None:
        self.waiting.append((work, done))

    def settle(self, is_kept: bool = True) -> None:
        """Bring the oldest to its end."""
        value, done = self.waiting.pop(0)
        if is_kept and isinstance(value, Kept):
            self.kept = value
        elif is_kept and isinstance(value, Registrations):
            self.registrations = value if value.is_kept else Registrations()
        elif is_kept and not isinstance(value, Kept | Registrations):
            self.medium_work = value
        done(is_kept)

    def after_restart(self) -> MemoryKeeper:
        """What a new process finds."""
        return MemoryKeeper(self.kept, replace(self.registrations, generation=0))


class BareDevice(MemoryDevice):
    """A device with no optional operation at all."""

    def __init__(self, blocks: int = 1024, block_size: int = 512) -> None:
        super().__init__(blocks, block_size)
        self.capabilities = Capabilities(
            unmap=Level.NONE,
            write_same=Level.NONE,
            compare_and_write=Level.NONE,
            fua=Level.NONE,
        )

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return False


class ThinMemory(MemoryDevice):
    """A device that says how much room it has, and so has the pages of thin units."""

    def __init__(self, blocks: int = 1024, block_size: int = 512) -> None:
        super().__init__(blocks, block_size)
        self.capabilities = replace(self.capabilities, tells_room=True)

    def room(self) -> Room | None:
        return Room(available=self.blocks, used=0)


class Host:
    """An initiator in session."""

    def __init__(
        self,
        access: Access,
        name: str = "iqn.2026-11.test:host",
        isid: int = 1,
        *,
        port: int = 1,
    ) -> None:
        self.access = access
        self.nexus = Nexus(name, isid.to_bytes(6, "big"), "iqn.2026-11.test:target", port)
        access.nexus_started(self.nexus)
        self._tag = 0
        for itl in self.nexus.units.values():
            itl.attentions.clear()

    def start(
        self,
        cdb: bytes | str,
        data: bytes = b"",
        *,
        lun: int = 0,
        attribute: TaskAttribute = TaskAttribute.SIMPLE,
        expected_in: int = 1 << 24,
        slow_data: bool = False,
    ) -> FakeTask:
        """Send a command; it may still be going on when this returns."""
        self._tag += 1
        if isinstance(cdb, str):
            cdb = bytes.fromhex(cdb)
        task = FakeTask(
            self.nexus,
            cdb,
            data,
            lun=lun,
            tag=self._tag,
            attribute=attribute,
            expected_in=expected_in,
            slow_data=slow_data,
        )
        self.access.submit(task)
        return task

    def run(self, cdb: bytes | str, data: bytes = b"", *, lun: int = 0) -> FakeTask:
        """Send a command that ends at once."""
        task = self.start(cdb, data, lun=lun)
        assert task.answers == 1, "not completed"
        return task

    def manage(self, function: int, *, lun: int = 0, tag: int = 0) -> list[int]:
        """Ask for task management; the list holds the response once there is one."""
        responses: list[int] = []
        self.access.task_management(self.nexus, function, lun << 48, tag, responses.append)
        return responses


def unit_of(device: BlockDevice | None = None, **options: object) -> LogicalUnit:
    """A logical unit over 1,024 blocks of memory, or over `device`."""
    identity = Identity("alpha", NAA)
    return LogicalUnit(identity, device or MemoryDevice(1024), **options)  # type: ignore[arg-type]


def host_of(unit: LogicalUnit) -> Host:
    """A host that sees `unit` as LUN 0."""
    access = Access()
    access.publish({"*": {0: unit}})
    return Host(access)
