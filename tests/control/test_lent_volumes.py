"""Rounds of pairs by second controllers straight to those of the other site [0101-0119]: two first
controllers and their second controllers in one process, over real sockets. tokyo's alpha lies on
sda, osaka's beta on sdb; both are Daiko, and sda may copy to sdb."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.backend.site_session import LinkState
from daiko.command_control.function_table import Known
from daiko.control import backends, functions, hosts, pairs, sites, volumes
from daiko.control.error import Conflict
from daiko.control.offers import Offers
from daiko.copy_manager import connections
from daiko.copy_manager.other_machines import OtherLu
from daiko.copy_manager.settings import Retries
from daiko.device.awaitable import read, write
from daiko.device.block import Done
from daiko.device.error import Unreachable
from daiko.initiator.settings import InitiatorSettings
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.pair.followed import CannotTakeOver, FollowedPair
from daiko.pair.settings import PairSettings
from daiko.pair.site_volume import SiteDevice
from daiko.pair.state import Verb
from daiko.pair.surroundings import SiteRefused
from daiko.scsi.pair_envelopes import (
    Answer,
    Head,
    Leave,
    Lend,
    Mixture,
    Return,
    State,
    StateCode,
)
from daiko.scsi.pair_envelopes import Verdict as Said
from daiko.scsi.site_values import MappedDevice
from daiko.state.pair_record import PairRecord, PairState
from daiko.state.record import ExtentRecord, JobRecord
from daiko.target.commands.site import OfferedMapping
from network_path import NetworkPath
from site_rig import Site, linked

BLOCKS = 8192
SIZE = BLOCKS * 512
REGION = 64 << 10
QUICK = PairSettings(catch_up_bytes=REGION, settle_seconds=0.01, retry_seconds=(0.01, 0.02, 0.05))


def quick(site: Site) -> None:
    system = site.system
    system.pairs._workshop = replace(system.pairs._workshop, settings=QUICK)
    system.peers._settings = QUICK
    manager = system.copy_manager
    manager.settings = replace(manager.settings, retries=Retries((0.01, 0.02, 0.05)))
    for link in system.sites._links.values():
        link._session._controller.use_settings(
            InitiatorSettings(grace=0.2, reconnect_longest=0.2, login_timeout=5.0)
        )


class Rig:
    """All of it. `sdb` is reached by `way`, which can be cut, and directly by osaka alone."""

    def __init__(self, folder: Path) -> None:
        self.tokyo, self.osaka, self.sda, self.sdb = (
            Site(folder, name) for name in ("tokyo", "osaka", "sda", "sdb")
        )
        self.way = NetworkPath(int(self.sdb.portal.rpartition(":")[2]))
        self.link = NetworkPath(int(self.osaka.portal.rpartition(":")[2]))
        self.to_sda = NetworkPath(int(self.sda.portal.rpartition(":")[2]))

    async def start(self, stack: AsyncExitStack) -> None:
        for second in (self.sda, self.sdb):
            await second.start()
            stack.push_async_callback(second.stop)
            for lu in range(2):
                await second.volume(f"lu{lu}", BLOCKS)
            luns = {lu: f"lu{lu}" for lu in range(2)}
            await hosts.add(second.system, "any", ["*"], luns=luns, remote_copy=["*"])
        for lu in range(2):
            self.file(self.sda, lu).write_bytes(random.Random(lu).randbytes(SIZE))
        stack.push_async_callback(self.osaka.stop)
        stack.push_async_callback(self.tokyo.stop)
        for path in (self.way, self.link, self.to_sda):
            await stack.enter_async_context(path)
        await linked(self.tokyo, self.osaka)
        await sites.change(self.tokyo.system, "osaka", portals=(self.link.portal,))
        await self.tokyo.link(self.osaka).probe()
        for first in (self.tokyo, self.osaka):
            quick(first)
        await backends.add(self.tokyo.system, "sda", f"iscsi://{self.to_sda.portal}/{self.sda.iqn}")
        await backends.add(
            self.osaka.system,
            "sdb",
            f"iscsi://{self.way.portal}/{self.sdb.iqn}",
            portals=(self.sdb.portal,),
        )

    def file(self, second: Site, lu: int = 0) -> Path:
        return second.folder / f"lu{lu}.img"

    async def volumes(
        self,
        alpha: list[ExtentRecord] | None = None,
        beta: list[ExtentRecord] | None = None,
    ) -> None:
        whole = [[extent(f"{name}/0", 0, BLOCKS)] for name in ("sda", "sdb")]
        await volumes.create_by_hand(self.tokyo.system, "alpha", alpha or whole[0])
        await volumes.create_by_hand(self.osaka.system, "beta", beta or whole[1])
        await sites.offer(self.osaka.system, "tokyo", "beta")

    async def pair(self, **more: object) -> None:
        await pairs.create(self.tokyo.system, "p", "alpha", "osaka:beta", confirmed=True, **more)  # type: ignore[arg-type]

    async def reached(self, state: PairState) -> None:
        (status,) = await pairs.wait(self.tokyo.system, "p", [state], 30)
        assert status.record.state is state, status

    async def equal(self) -> bool:
        """Read past both first controllers' pairs, by their volumes."""
        found = [
            await read(site.system.unit(volume).device, 0, site.system.place(volume).blocks)
            for site, volume in ((self.tokyo, "alpha"), (self.osaka, "beta"))
        ]
        return bytes(found[0]) == bytes(found[1])

    def jobs(self) -> list[JobRecord]:
        return list(self.tokyo.system.copy_manager.jobs())

    @property
    def followed(self) -> PairRecord:
        return self.osaka.system.followed.pair("p").record


def extent(device: str, lba: int, blocks: int) -> ExtentRecord:
    return ExtentRecord(device=device, lba=lba, blocks=blocks)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    async with AsyncExitStack() as stack:
        await made.start(stack)
        yield made


def moved(job: JobRecord) -> dict[str, int]:
    """Bytes by executor."""
    found: dict[str, int] = {}
    for step in job.steps:
        found[step.executor] = found.get(step.executor, 0) + step.bytes_moved
    return found


async def test_initial_copy_passes_neither_first_controller(rig: Rig) -> None:
    await rig.volumes()
    before = rig.link.passed, rig.to_sda.passed
    await rig.pair()
    await rig.reached(PairState.PAIRED)
    passed = rig.link.passed - before[0], rig.to_sda.passed - before[1]
    assert max(passed) < SIZE // 8
    assert await rig.equal()
    (job,) = rig.jobs()
    assert moved(job) == {"second controller sda": SIZE}
    assert not any(step.bytes_through_first_controller for step in job.steps)
    cell = rig.tokyo.system.function_table().reaches("sda", DeviceId("osaka:sdb", 0))
    assert cell is not None
    assert (cell.can, cell.known) == (True, Known.PROBED)
    assert job.steps[0].reason == (
        "sda owns the source, can do volume copy (probed) and reaches osaka:sdb/0 (probed)"
    )
    assert job.destination == "osaka:beta"
    assert rig.followed.loan == 0


async def test_owner_gets_the_extents_that_qualify_and_this_controller_the_rest(rig: Rig) -> None:
    await rig.tokyo.volume("mine", BLOCKS)
    await volumes.remove(rig.tokyo.system, "mine")
    await rig.osaka.volume("yours", BLOCKS)
    await volumes.remove(rig.osaka.system, "yours")
    await rig.volumes(
        [extent("sda/0", 512, 4096), extent("mine-disk/0", 0, 2048), extent("sda/1", 0, 2048)],
        [extent("sdb/1", 1000, 2048), extent("sdb/0", 77, 4096), extent("yours-disk/0", 8, 2048)],
    )
    await rig.pair()
    await rig.reached(PairState.PAIRED)
    assert await rig.equal()
    (job,) = rig.jobs()
    assert [(s.source, s.destination, s.blocks, s.delegated) for s in job.steps] == [
        ("sda/0", "osaka:sdb/1", 2048, True),
        ("sda/0", "osaka:sdb/0", 2048, True),
        ("mine-disk/0", "osaka:sdb/0", 2048, False),
        ("sda/1", "osaka:yours-disk/0", 2048, False),
    ]
    assert moved(job) == {"second controller sda": SIZE // 2, "this controller": SIZE // 2}
    reasons = {executor: why for step in job.steps[2:] for executor, why in step.rejected}
    assert reasons == {
        "second controller osaka:sdb": (
            "only site osaka, where it can do volume copy (probed), gives it commands"
        ),
        "second controller sda": (
            "osaka:yours-disk/0 is a disk of that site's first controller, which nobody reaches"
        ),
    }


async def led(rig: Rig, words: str) -> None:
    """A pair is made, and its round is carried out here, for a reason with these words."""
    await rig.pair()
    await rig.reached(PairState.PAIRED)
    assert await rig.equal()
    (job,) = rig.jobs()
    assert moved(job) == {"this controller": SIZE}
    said = [job.steps[0].reason, *(why for _, why in job.steps[0].rejected)]
    assert any(words in why for why in said), said


async def test_older_peer_lends_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.volumes()
    monkeypatch.setattr("daiko.pair.peers.LENDS", (1, 9))
    await led(rig, "site osaka speaks version 1.2 of the protocol, and volumes are lent from 1.9")


async def test_peer_that_does_not_lend(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.volumes()

    async def refuse(pair: FollowedPair, asked: Lend) -> Answer:
        return pair.answer(asked.head, Said.REFUSED, "not today")

    monkeypatch.setattr(rig.osaka.system.followed, "lend", refuse)
    await led(rig, "site osaka does not lend osaka:beta: not today")


async def test_mapping_that_cannot_be_is_not_used(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.volumes()
    monkeypatch.setattr(Offers, "mapping", lambda self, lun: _overlapping(rig, lun))
    await led(rig, "site osaka: two extents lie on block 1 of osaka:sdb/0")
    assert rig.tokyo.link(rig.osaka).status.state is LinkState.UP


def _overlapping(rig: Rig, lun: int) -> OfferedMapping:
    device = DeviceId("sdb", 0)
    half = BLOCKS // 2
    table = MappingTable([Extent(0, half, device, 0), Extent(half, half, device, 1)])
    told = Offers._device(_offers(rig), 0, device)
    return OfferedMapping((told,), table)


def _offers(rig: Rig) -> Offers:
    system = rig.osaka.system
    return Offers("tokyo", system.store, system._inventory, system.sites.pairing)


LIES: dict[str, tuple[Callable[[Rig, MappedDevice], MappedDevice], str]] = {
    "another LU of its own": (
        lambda rig, told: replace(
            Offers._device(_offers(rig), 0, DeviceId("sdb", 1)), name="sdb/1", lun=1
        ),
        "osaka:sdb/1 does not hold what its site says",
    ),
    "an identity that it has not": (
        lambda rig, told: replace(told, designators=(b"\x01\x03\x00\x08" + b"\x51" * 8,)),
        "osaka:sdb/0 shows another identity than its site says",
    ),
    "no identity": (
        lambda rig, told: replace(told, designators=()),
        "osaka:sdb/0 shows another identity than its site says, or none",
    ),
    "a disk of ours": (
        lambda rig, told: replace(
            told,
            iqn=rig.sda.iqn,
            portals=(rig.sda.portal,),
            designators=rig.tokyo.system.directory()[DeviceId("sda", 0)].designators,
        ),
        "osaka:sdb/0 is our sda/0, on which volumes of ours lie",
    ),
    "a portal where nobody is": (
        lambda rig, told: replace(told, portals=("127.0.0.1:9",)),
        "osaka:sdb/0 cannot be reached from here to see what it is",
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_device_is_named_only_where_it_was_seen_to_be_the_other_volumes(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    tell, words = LIES[lie]
    await rig.volumes()
    device = Offers._device
    honest = Offers._device(_offers(rig), 0, DeviceId("sdb", 0))
    lying = tell(rig, honest)
    monkeypatch.setattr(Offers, "_device", lambda self, number, each: lying)
    assert device is not Offers._device
    untouched = [rig.file(rig.sda, lu).read_bytes() for lu in range(2)]
    await led(rig, words)
    assert [rig.file(rig.sda, lu).read_bytes() for lu in range(2)] == untouched
    assert rig.file(rig.sdb, 1).read_bytes() == bytes(SIZE)


async def test_administrator_answers_for_a_device_that_is_not_reached_from_here(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.volumes()

    async def hold(iqn: str, portal: str, lun: int) -> OtherLu:
        raise Unreachable("no way there")

    monkeypatch.setattr(rig.tokyo.system.copy_manager.other_machines, "hold", hold)
    await led(rig, "`daiko function set-reach` answers for it")
    await functions.declare_reach(rig.tokyo.system, "sda", "osaka:sdb/0", True)
    await pairs.do(rig.tokyo.system, "p", Verb.SPLIT, confirmed=True)
    for lba in range(0, BLOCKS, 512):
        await write(rig.tokyo.system.unit("alpha").device, lba, b"new!" * 128)
    await pairs.do(rig.tokyo.system, "p", Verb.RESYNC, confirmed=True)
    await rig.reached(PairState.PAIRED)
    assert await rig.equal()
    assert moved(rig.jobs()[-1]) == {"second controller sda": 16 * REGION}
    await pairs.do(rig.tokyo.system, "p", Verb.REMOVE, confirmed=True)
    await sites.withdraw(rig.osaka.system, "tokyo", "beta")
    await sites.remove(rig.tokyo.system, "osaka")
    assert not [row for row in functions.reach(rig.tokyo.system) if ":" in row.device]


# --- while it goes on


async def test_hosts_write_meanwhile(rig: Rig) -> None:
    await rig.volumes()
    await rig.pair(pace="16MiB/s")
    number = 0
    while pairs.show(rig.tokyo.system, "p").record.state is PairState.COPYING:
        data = random.Random(number).randbytes(1024)
        await write(rig.tokyo.system.unit("alpha").device, number * 977 % (BLOCKS - 2), data)
        number += 1
    await rig.reached(PairState.PAIRED)
    assert number > 20
    assert await rig.equal()
    assert moved(rig.jobs()[0]) == {"second controller sda": SIZE}


async def test_executor_that_drops_a_copy_midway_is_replaced(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_IMPATIENT", InitiatorSettings(grace=0.2))
    second = rig.sda.system.copy_manager
    second.settings = replace(second.settings, host_retries=Retries((0.01, 0.02)))
    await rig.volumes()
    rig.way.cut_after(rig.way.passed + SIZE // 2)
    await rig.pair()
    await rig.reached(PairState.PAIRED)
    assert not rig.way.is_open
    assert await rig.equal()
    (job,) = rig.jobs()
    assert job.steps[0].rejected or job.steps[0].error
    by = moved(job)
    assert by["this controller"] >= SIZE // 4
    assert rig.followed.loan == 0


async def until(rig: Rig, holds: Callable[[PairRecord], bool]) -> None:
    """Wait until osaka's record of the pair is like this."""
    async with asyncio.timeout(30):
        while not holds(rig.followed):
            await rig.osaka.system.followed.changed()


async def test_cache_that_the_destination_loses_before_it_is_flushed_is_noticed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.volumes()
    lost = iter([True])
    flush = SiteDevice.flush

    def flush_after_a_reset(self: SiteDevice, done: Done) -> None:
        if next(lost, False):
            # What sdb tells whoever has a session with it; osaka hears of it with the flush.
            rig.sdb.system._publication.device_was_reset(DeviceId("lu0-disk", 0))
            rig.file(rig.sdb).write_bytes(bytes(SIZE))
        flush(self, done)

    monkeypatch.setattr(SiteDevice, "flush", flush_after_a_reset)
    await rig.pair()
    await rig.reached(PairState.PAIRED)
    assert await rig.equal()
    assert moved(rig.jobs()[0])["second controller sda"] == 2 * SIZE


async def lent(rig: Rig) -> None:
    """A pair whose round goes on, slowly."""
    await rig.volumes()
    await rig.pair(pace="256KiB/s")
    await until(rig, lambda record: record.loan != 0)


async def test_nobody_takes_over_and_no_state_is_followed_while_it_is_lent(rig: Rig) -> None:
    await lent(rig)
    with pytest.raises(CannotTakeOver, match="second controllers of site tokyo may be writing"):
        await rig.osaka.system.followed.take_over("p")
    with pytest.raises(Conflict, match="beta is lent"):
        await pairs.do(rig.osaka.system, "p", Verb.REMOVE)
    assert rig.followed.loan != 0
    assert any("beta is lent" in note for note in pairs.show(rig.osaka.system, "p").notes)
    uuid, sequence = bytes.fromhex(rig.followed.uuid), rig.followed.sequence
    for state in (StateCode.SPLIT, StateCode.PAIRED, StateCode.REVERSE_COPYING):
        said = State(Head(uuid, 1, sequence + 1), state, Mixture.NONE, True, "")
        answer = await rig.tokyo.system.peers.exchange("osaka", said)
        assert (answer.verdict, answer.loan) == (Said.REFUSED, rig.followed.loan)
    leave = Leave(Head(uuid, 1, sequence))
    assert (await rig.tokyo.system.peers.exchange("osaka", leave)).verdict is Said.REFUSED
    await pairs.do(rig.tokyo.system, "p", Verb.SPLIT, confirmed=True)
    assert (rig.followed.loan, rig.followed.state) == (0, PairState.SPLIT)
    assert rig.osaka.system.unit("beta").is_write_protected is False
    await pairs.set_pace(rig.tokyo.system, "p", "full")
    await pairs.do(rig.tokyo.system, "p", Verb.RESYNC, confirmed=True)
    await rig.reached(PairState.PAIRED)
    assert await rig.equal()


async def test_loan_is_returned_by_its_own_number_and_granted_for_the_state_that_is_known(
    rig: Rig,
) -> None:
    await rig.volumes()
    await rig.pair()
    await rig.reached(PairState.PAIRED)
    uuid, sequence = bytes.fromhex(rig.followed.uuid), rig.followed.sequence

    async def asked(message: Lend | Return) -> Said:
        return (await rig.tokyo.system.peers.exchange("osaka", message)).verdict

    assert await asked(Lend(Head(uuid, 1, sequence - 1), 5)) is Said.STALE
    assert await asked(Lend(Head(uuid, 1, sequence), 5)) is Said.REFUSED  # it is paired
    state = State(Head(uuid, 1, sequence + 1), StateCode.COPYING, Mixture.SECONDARY, False, "")
    assert (await rig.tokyo.system.peers.exchange("osaka", state)).verdict is Said.ACCEPTED
    assert await asked(Lend(Head(uuid, 1, sequence + 1), 5)) is Said.ACCEPTED
    assert await asked(Lend(Head(uuid, 1, sequence + 1), 6)) is Said.ACCEPTED
    assert await asked(Return(Head(uuid, 1, sequence), 5)) is Said.ACCEPTED  # late
    assert rig.followed.loan == 6
    assert await asked(Return(Head(uuid, 1, sequence), 6)) is Said.ACCEPTED
    assert rig.followed.loan == 0


async def test_loan_that_a_leader_left_is_returned_when_it_is_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lent(rig)

    async def lost(record: PairRecord, loan: int) -> None:
        raise SiteRefused("the leader was killed before")

    monkeypatch.setattr(rig.tokyo.system.peers, "give_back", lost)
    await pairs.do(rig.tokyo.system, "p", Verb.SPLIT, confirmed=True)
    assert rig.followed.loan != 0
    assert rig.followed.state is PairState.COPYING
    await rig.osaka.stop()
    await rig.osaka.start()
    assert rig.osaka.system.unit("beta").is_write_protected
    with pytest.raises(CannotTakeOver, match="beta is lent"):
        await rig.osaka.system.followed.take_over("p")
    await rig.tokyo.stop()
    await rig.tokyo.start()
    quick(rig.tokyo)
    await until(rig, lambda record: record.state is PairState.SPLIT)
    assert rig.followed.loan == 0


async def test_administrator_frees_a_volume_that_is_lent_to_a_site_that_is_lost(rig: Rig) -> None:
    await lent(rig)
    await pairs.do(rig.osaka.system, "p", Verb.REMOVE, confirmed=True)
    assert pairs.ls(rig.osaka.system) == []
    await rig.reached(PairState.SPLIT_BY_ERROR)
    await write(rig.osaka.system.unit("beta").device, 0, b"free" * 128)
