"""Two sites in one event loop: a first controller that leads a pair, one that follows, and the link
between them, which carries packed envelopes and the commands to the volume that is followed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakKeyDictionary

from daiko.backend.site_session import SiteUnavailable
from daiko.control.site_pairs import SitePairs
from daiko.copy_manager.pace import Pace
from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import DeviceError, Unreachable
from daiko.mapping.range_set import RangeSet
from daiko.pair.followed import FollowedPairs
from daiko.pair.pairs import Pairs
from daiko.pair.peer_door import PeerDoor
from daiko.pair.peers import Peers
from daiko.pair.surroundings import RoundFailed, Workshop
from daiko.scsi.site_values import Envelope, OfferedVolume
from daiko.state.pair_record import PairRecord, PairState

from .pair_world import (
    BLOCK,
    BLOCKS,
    GRANULARITY,
    QUICK,
    DirectCopies,
    Disk,
    InlineWorkers,
    KillingStore,
    Volume,
    World,
)

LEADER, FOLLOWER = "tokyo", "osaka"
OTHER = {LEADER: FOLLOWER, FOLLOWER: LEADER}
VOLUMES = {LEADER: "alpha", FOLLOWER: "beta"}
UUID = bytes(range(16))
NAA = {LEADER: "6" + "0" * 30 + "1", FOLLOWER: "6" + "0" * 30 + "2"}
NAA_OF = {
    "alpha": NAA[LEADER], "beta": NAA[FOLLOWER],
    "gamma": "6" + "0" * 30 + "3", "delta": "6" + "0" * 30 + "4",
}  # fmt: skip

_life: ContextVar[Controller | None] = ContextVar("life", default=None)
"""The controller for which something runs."""


class Controller:
    """A first controller from its start until it is killed; its store outlives it."""

    def __init__(self, world: TwoSites, site: str) -> None:
        self.site = site
        self.records = world.kept[site]
        self.commits_left = -1
        self.killed_after_commit = False
        self.is_dead = False
        self.became_paired = world.became_paired
        self.context: Context = copy_context()
        self.context.run(_life.set, self)
        self.volumes = {name: SiteSide(name, world.disks[name]) for name in world.volumes_of[site]}
        self.volume = self.volumes[VOLUMES[site]]
        volume = self.volumes.__getitem__
        link = {OTHER[site]: Link(world, self)}
        self.peers = Peers(cast("Any", link.__getitem__), volume, QUICK)
        store = cast("Any", SiteStore(cast("Any", self)))
        workers = cast("Any", InlineWorkers())
        folder = world.folder / site
        rounds = cast("Any", SiteRounds(world))
        self.pairs = Pairs(
            store,
            volume,
            Workshop(rounds, lambda place, times: lambda: None, QUICK, self.peers),
            folder,
            workers=workers,
            clock=lambda: 1.0,
        )
        self.followed = FollowedPairs(store, volume, folder, lambda: 1.0, workers)
        self.system = SimpleNamespace(
            sites=SimpleNamespace(on_up=lambda site: None),
            store=store,
            pairs=self.pairs,
            followed=self.followed,
            peers=self.peers,
            changing=asyncio.Lock(),
        )
        self.site_pairs = SitePairs(cast("Any", self.system))

    async def start(self) -> None:
        await self.pairs.start()
        await self.followed.start()
        self.site_pairs.start()


class SiteRounds(DirectCopies):
    """Rounds that write at once what the link and the door let through."""

    async def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        world = cast("TwoSites", self._world)
        here, there = (world.disks[name.rpartition(":")[2]] for name in (source, destination))
        generations = world.link_generation, here.generation, there.generation
        confirmed = RangeSet()
        for first, blocks in ranges:
            for at in range(first, first + blocks, 5):
                count = min(5, first + blocks - at)
                while not world.pieces_left:
                    await world.rounds_go.wait()
                world.pieces_left -= 1
                await asyncio.sleep(0)
                now = world.link_generation, here.generation, there.generation
                if not world.link_is_up or now != generations:
                    raise RoundFailed("the link or a disk was lost")
                if here.is_down or there.is_down:
                    raise RoundFailed("a disk is down")
                name = destination.rpartition(":")[2]
                followed = world.controllers[FOLLOWER].volumes.get(name)
                if followed is not None and not followed.door(LEADER).is_open:
                    raise RoundFailed("the door is closed")
                there.now[at : at + count] = here.now[at : at + count]
                there.stable[:] = there.now
                confirmed.add(at, count)
                yield confirmed.copy()


class SiteStore(KillingStore):
    """The store of one site."""

    def get(self, kind: type[PairRecord], name: str) -> PairRecord | None:
        return self._world.records.get(name)

    async def put(self, record: PairRecord) -> None:  # type: ignore[override]
        async with self.transaction() as change:
            change.put(record)

    async def delete(self, kind: type[PairRecord], name: str) -> None:  # type: ignore[override]
        async with self.transaction() as change:
            change.delete(kind, name)


class SiteSide(Volume):
    """The volume of one site, and the door for the other."""

    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name, disk)
        self.naa = NAA_OF[name]
        self._door = PeerDoor(disk)

    def door(self, site: str) -> PeerDoor:
        return self._door


class Link:
    """What one controller has of the other site (`backend.site_link.SiteLink`)."""

    def __init__(self, world: TwoSites, owner: Controller) -> None:
        self._world = world
        self._owner = owner
        self._answered: Sequence[Envelope] = ()

    @property
    def generation(self) -> int:
        return self._world.link_generation + self._world.resets_told

    def _peer(self) -> Controller:
        peer = self._world.controllers.get(OTHER[self._owner.site])
        if peer is None or peer.is_dead or self._owner.is_dead or not self._world.link_is_up:
            raise SiteUnavailable("the link is down")
        return peer

    async def _at_peer(self, work: Callable[[Controller], Any]) -> Any:
        """What it does there goes on, whatever becomes of the link meanwhile."""
        peer, generation = self._peer(), self._world.link_generation
        task = self._world.loop.create_task(work(peer), context=peer.context.copy())
        lost = self._world.link_lost
        waiting = asyncio.ensure_future(lost.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not task.done() or task.cancelled() or self._world.link_generation != generation:
            raise SiteUnavailable("the link went down")
        return task.result()

    async def send_pair(self, lun: int, envelope: Envelope) -> None:
        await self._at_peer(lambda peer: peer.site_pairs.receive(self._owner.site, lun, envelope))

    async def pair_answers(self, lun: int) -> Sequence[Envelope]:
        found: Sequence[Envelope] = await self._at_peer(
            lambda peer: peer.site_pairs.answer(self._owner.site, lun)
        )
        return found

    async def volumes(self) -> dict[int, OfferedVolume]:
        return {
            lun: OfferedVolume(lun, name, BLOCK, BLOCKS, bytes.fromhex(NAA_OF[name]))
            for lun, name in enumerate(self._peer().volumes, 1)
        }

    version = (1, 2)

    async def device(self, lun: int) -> BlockDevice:
        return LinkDevice(self, list(self._peer().volumes)[lun - 1])


class LinkDevice(BlockDevice):
    """The other site's volume over the link, past its door."""

    def __init__(self, link: Link, name: str) -> None:
        self._name = name
        self.block_size = BLOCK
        self.blocks = BLOCKS
        self.capabilities = link._peer().volumes[name].device.capabilities
        self._link = link

    def _send(self, send: Callable[[BlockDevice, ReadDone], None], done: ReadDone) -> None:
        world, owner = self._link._world, self._link._owner
        is_answered = False

        def answer(error: DeviceError | None, data: Buffer = b"") -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                world.outstanding.discard(lose)
                if not owner.is_dead:
                    owner.context.copy().run(done, error, data)

        def lose() -> None:
            answer(Unreachable("the link was lost"))

        try:
            peer = self._link._peer()
        except SiteUnavailable as error:
            answer(Unreachable(str(error)))
            return
        disk = world.disks[self._name]
        if world.generation_told.setdefault(self._name, disk.generation) != disk.generation:
            world.generation_told[self._name] = disk.generation
            world.resets_told += 1  # as a unit attention, and the command is sent again
        world.outstanding.add(lose)
        peer.context.copy().run(send, peer.volumes[self._name].door(owner.site), answer)

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self._send(lambda door, answer: door.read(lba, blocks, answer), done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        kept = bytes(data)
        self._send(
            lambda door, answer: door.write(lba, kept, lambda error: answer(error, b""), fua),
            lambda error, data: done(error),
        )

    def flush(self, done: Done) -> None:
        self._send(
            lambda door, answer: door.flush(lambda error: answer(error, b"")),
            lambda error, data: done(error),
        )


class TwoSites(World):
    """Both sites, and the link."""

    volumes_of: Mapping[str, Sequence[str]] = {LEADER: ["alpha"], FOLLOWER: ["beta"]}

    def __init__(self, folder: Path) -> None:
        self.kept: dict[str, dict[str, PairRecord]] = {LEADER: {}, FOLLOWER: {}}
        self.controllers: dict[str, Controller] = {}
        self.link_is_up = True
        self.link_generation = 0
        self.resets_told = 0
        """How often the link was told that a disk there may have lost what its cache held."""
        self.generation_told: dict[str, int] = {}
        self.outstanding: set[Callable[[], None]] = set()
        super().__init__(folder, [name for names in self.volumes_of.values() for name in names])
        self.link_lost = asyncio.Event()
        self._runs_for: WeakKeyDictionary[Any, Controller | None] = WeakKeyDictionary()
        self.loop.set_task_factory(self._task)

    def _task(self, loop: Any, work: Any, context: Context | None = None) -> Any:
        task: Any = asyncio.Task(work, loop=loop, context=context)
        self._runs_for[task] = _life.get() if context is None else context.get(_life)
        return task

    @property  # type: ignore[override]
    def is_dead(self) -> bool:
        """Somebody is, and has not been buried yet."""
        return any(each.is_dead for each in self.controllers.values())

    @is_dead.setter
    def is_dead(self, dead: bool) -> None:
        """It is said of a controller."""

    def create(self, record: PairRecord) -> None:
        """The pair, at both sites."""
        for site in (FOLLOWER, LEADER):
            if site not in self.controllers:
                self.start_site(site)
        secondary = record.secondary.partition(":")[2]
        follows = record.model_copy(
            update={
                "primary": f"{LEADER}:{record.primary}", "secondary": secondary,
                "mixture": secondary, "site": LEADER, "peer_naa": NAA_OF[record.primary],
                "is_followed": True,
            }
        )  # fmt: skip
        self.run_at(FOLLOWER, self.controllers[FOLLOWER].followed.create(follows))
        self.run_at(LEADER, self.controllers[LEADER].pairs.create(record))

    def start_site(self, site: str) -> None:
        controller = self.controllers[site] = Controller(self, site)
        self.run_at(site, controller.start())
        self.settle()
        self._link_is_there()

    def run_at(self, site: str, work: Any) -> Any:
        """As `run`, for the controller of a site."""
        context = self.controllers[site].context.copy()
        task = self.loop.create_task(work, context=context)
        self._go_on()
        return task.result() if task.done() and not task.cancelled() else None

    def call_at(self, site: str, function: Callable[[], None]) -> None:
        """As `call`, for the controller of a site."""
        self.call(lambda: self.controllers[site].context.copy().run(function))

    def cut_link(self) -> None:
        """Nothing passes; what was on the way may have come, and nobody hears of it."""
        self.link_is_up = False
        self._lose_link()
        self.settle()

    def heal_link(self) -> None:
        self.link_is_up = True
        self._link_is_there()

    def _lose_link(self) -> None:
        self.link_generation += 1

        def lose() -> None:
            self.link_lost.set()
            self.link_lost = asyncio.Event()
            for answer in list(self.outstanding):
                answer()

        self.loop.call_soon(lose)

    def _link_is_there(self) -> None:
        if self.link_is_up and len(self.controllers) == 2 and not self.is_dead:
            for site, controller in self.controllers.items():
                self.call_at(site, partial(controller.system.sites.on_up, OTHER[site]))

    def kill_site(self, site: str) -> None:
        """Its controller is killed; the other one sees the link go."""
        controller = self.controllers.pop(site)
        controller.is_dead = True
        disks = [self.disks[name] for name in self.volumes_of[site]]
        for disk in disks:
            disk.forget_answers()
            disk.is_slow = False
            disk.is_deaf = True
        for pair in controller.pairs.all():
            if pair.applier is not None:
                pair.applier.journal._file.close()
        sides = [side for pair in controller.pairs.all() for side in pair.sides]
        for side in [*sides, *(pair.side for pair in controller.followed.all())]:
            if side.bitmap._file is not None:
                side.bitmap._file.close()
        for handle in list(self.loop._scheduled):  # type: ignore[attr-defined]
            if handle._context.get(_life) is controller:
                handle.cancel()
        while tasks := [
            task for task in asyncio.all_tasks(self.loop) if self._runs_for.get(task) is controller
        ]:
            for task in tasks:
                task.cancel()
            self._go_on(dying=True)
        for disk in disks:
            disk.is_deaf = False
        self._lose_link()
        self.settle()

    def close(self) -> None:
        for site in list(self.controllers):
            self.kill_site(site)
        self.loop.close()


def led(**changes: Any) -> PairRecord:
    """The record of the leader."""
    return PairRecord(
        name="p", primary="alpha", secondary=f"{FOLLOWER}:beta", granularity=GRANULARITY,
        mixture=f"{FOLLOWER}:beta", created=1.0, changed=1.0, site=FOLLOWER, uuid=UUID.hex(),
        peer_naa=NAA[FOLLOWER], sequence=1, state=PairState.COPYING,
    ).model_copy(update=changes)  # fmt: skip
