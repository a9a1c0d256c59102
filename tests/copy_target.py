"""A whole target over devices in memory, and hosts that send it copy commands."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from copy_rig import QUICK, Rig
from daiko.command_control.plan import Mode
from daiko.copy_manager.copy_manager import CopyManager
from daiko.device.block import BlockDevice
from daiko.device.error import Unreachable
from daiko.mapping.extent import DeviceId
from daiko.scsi.alias import Alias, pack_change_aliases
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import Cscd, IdentificationCscd
from daiko.scsi.segment import BlockToBlock, Segment
from daiko.scsi.sense import Sense
from daiko.scsi.vpd import Designator
from daiko.state.record import HostRecord, SystemRecord
from daiko.state.sqlite import SqliteStore
from daiko.target.access import Access
from daiko.target.commands.third_party_copy import ThirdPartyCopyCommands
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.virtual_lu.virtual_lu import VirtualLu
from target.fake import FakeTask, Host

ALICE, BOB = "iqn.2026-11.test:alice", "iqn.2026-11.test:bob"

FAR = "192.0.2.7:3260"
"""Where there is another machine."""

LUNS = {"alpha": 0, "vault": 1, "big": 2, "sealed": 3}
"""What alice sees; `secret` is bob's."""


def naa_of(volume: str) -> bytes:
    """16 bytes, NAA 6."""
    return bytes((0x60, 0x2D, 0xA1, 0x00)) + volume.encode().ljust(12, b"\0")


@dataclass
class FakeOther:
    """A target on another machine."""

    rig: Rig
    backend: str
    generation: int = 1
    is_open: bool = False

    @property
    def units(self) -> Mapping[int, object]:
        return self.rig.facts(self.backend)

    async def open(self) -> None:
        if self.rig.controllers[self.backend].is_down:
            raise Unreachable("no route")
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    def device(self, lun: int) -> BlockDevice:
        return self.rig.disks[DeviceId(self.backend, lun)]

    async def execute(self, *_: object, **__: object) -> object:
        raise AssertionError("no command is sent to another machine's controller here")


class FakeConnections:
    """Connects to the back ends of a rig by their iSCSI names, and counts."""

    def __init__(self, rig: Rig, targets: Mapping[str, Sequence[str]]) -> None:
        self.rig = rig
        self.targets = targets
        """Portal -> iSCSI names of its targets."""
        self.opened: list[FakeOther] = []
        self.asked: list[str] = []

    def connect(self, name: str, iqn: str, portal: str) -> FakeOther:
        backend = next(backend for backend, other in self.rig.iqns.items() if other == iqn)
        self.opened.append(FakeOther(self.rig, backend))
        return self.opened[-1]

    async def find_targets(self, portal: str) -> Sequence[str]:
        self.asked.append(portal)
        return self.targets.get(portal, ())


class CopyTarget:
    """alice sees alpha, vault, big (4096-byte blocks) and sealed (write protected); bob secret."""

    def __init__(self, store: SqliteStore, rig: Rig, connections: FakeConnections) -> None:
        self.store = store
        self.rig = rig
        self.connections = connections
        self.manager = CopyManager(store, rig, settings=QUICK, connections=connections)  # type: ignore[arg-type]
        self.commands = ThirdPartyCopyCommands(self.manager, store, rig)
        self.units: dict[str, LogicalUnit] = {}
        for name, place in rig.volumes.items():
            device = VirtualLu(place.table, rig.disks, place.block_size)
            self.units[name] = LogicalUnit(
                Identity(name, naa_of(name)),
                device,
                third_party_copy=self.commands,
                read_only=name == "sealed",
            )
        self.access = Access()
        self.access.publish(
            {
                ALICE: {lun: self.units[name] for name, lun in LUNS.items()},
                BOB: {0: self.units["secret"]},
            }
        )
        self.alice = Host(self.access, ALICE)
        self.bob = Host(self.access, BOB, isid=2)

    @classmethod
    async def start(
        cls,
        store: SqliteStore,
        *,
        mode: Mode = Mode.DELEGATE,
        remote_copy: tuple[str, ...] = (),
    ) -> CopyTarget:
        """sd1 can copy and reaches the vault; sd2 cannot."""
        await store.put(
            SystemRecord(
                iqn="iqn.2026-11.test:target",
                initiator_iqn="iqn.2026-11.test:initiator",
                mode=mode,
            )
        )
        await store.put(HostRecord(name="alice", initiators=(ALICE,), remote_copy=remote_copy))
        rig = Rig()
        rig.attach("sd1", 1024, reaches=("vault",))
        rig.attach("sd2", 1024, limits=None)
        rig.attach("vault", 1024, limits=None)
        rig.attach("new", 128, block_size=4096, limits=None)
        rig.attach("far", 256, limits=None)
        for number, device in enumerate(("sd1/0", "sd2/0", "vault/0", "new/0", "far/0")):
            rig.fill(device, number + 1)
        rig.volume("alpha", ("sd1/0", 0, 512), ("sd2/0", 0, 400))
        rig.volume("vault", ("vault/0", 0, 1024))
        rig.volume("big", ("new/0", 0, 128))
        rig.volume("sealed", ("sd2/0", 400, 100))
        rig.volume("secret", ("sd2/0", 500, 500))
        far = rig.unlist("far")
        connections = FakeConnections(rig, {"192.0.2.7:3260": (far,)})
        target = cls(store, rig, connections)
        await target.manager.start()
        return target

    async def stop(self) -> None:
        await self.manager.stop()

    def contents(self) -> dict[str, bytes]:
        """All bytes of all devices."""
        return {str(device): self.rig.content(str(device)) for device in self.rig.disks}

    async def send(
        self,
        data: bytes,
        *,
        host: Host | None = None,
        lun: int = 0,
        length: int | None = None,
    ) -> FakeTask:
        """An EXTENDED COPY; returns when it has ended."""
        task = self.begin(data, host=host, lun=lun, length=length)
        return await self.ended(task)

    def begin(
        self,
        data: bytes,
        *,
        host: Host | None = None,
        lun: int = 0,
        length: int | None = None,
    ) -> FakeTask:
        size = len(data) if length is None else length
        cdb = bytes((0x83,)) + bytes(9) + size.to_bytes(4, "big") + bytes(2)
        return (host or self.alice).start(cdb, data, lun=lun)

    async def ended(self, task: FakeTask) -> FakeTask:
        async with asyncio.timeout(20):
            while not task.answers:  # noqa: ASYNC110  # the task has no event: it is a port's
                await asyncio.sleep(0)
        return task


def cscd(volume: str, **changes: object) -> IdentificationCscd:
    """The E4h descriptor of a volume of ours."""
    return IdentificationCscd(Designator.naa(naa_of(volume)), **changes)  # type: ignore[arg-type]


def parameters(
    cscds: Sequence[Cscd],
    segments: Sequence[Segment],
    *,
    list_id: int = 0,
    usage: int = 0b11,
) -> bytes:
    """A parameter list."""
    return ExtendedCopy(list_id, usage, tuple(cscds), tuple(segments)).pack()


def backup(blocks: int = 16, source_lba: int = 0, destination_lba: int = 0) -> bytes:
    """alpha to vault."""
    segment = BlockToBlock(0, 1, blocks, source_lba, destination_lba)
    return parameters([cscd("alpha"), cscd("vault")], [segment])


def sense_of(task: FakeTask) -> Sense:
    assert task.sense is not None, f"status {task.status} without sense data"
    return task.sense


def receive(target: CopyTarget, action: int, list_id: int = 0, length: int = 4096) -> FakeTask:
    """RECEIVE COPY RESULTS by alice."""
    cdb = bytes((0x84, action, list_id)) + bytes(7) + length.to_bytes(4, "big") + bytes(2)
    return target.alice.start(cdb)


def change_aliases(target: CopyTarget, *aliases: Alias) -> FakeTask:
    """CHANGE ALIASES by alice."""
    data = pack_change_aliases(aliases)
    cdb = bytes((0xA4, 0x0B, 0, 0, 0, 0)) + len(data).to_bytes(4, "big") + bytes(2)
    return target.alice.start(cdb, data)
