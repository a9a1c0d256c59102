"""Two sites in one event loop: a first controller that leads a pair, one that follows, the link
between them (`pair_link.py`), and second controllers that copy past both, as long as the volume is
lent. The files of the bitmaps lie on disks that forget, at a power cut, what was not synced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock
from weakref import WeakKeyDictionary

from daiko.control.site_pairs import SitePairs
from daiko.copy_manager.pace import Pace
from daiko.mapping.range_set import RangeSet
from daiko.pair.differential_bitmap import DifferentialBitmap
from daiko.pair.exchange import Exchange
from daiko.pair.followed import FollowedPairs
from daiko.pair.pairs import Pairs
from daiko.pair.peer_door import PeerDoor
from daiko.pair.peers import Peers
from daiko.pair.surroundings import RoundFailed, SiteRefused, Workshop
from daiko.state.pair_record import PairRecord, PairState
from simulated_disk import PAGE, SimulatedDisk

from .pair_link import FOLLOWER, LEADER, NAA_OF, OTHER, VOLUMES, Link, Wire
from .pair_world import (
    GRANULARITY,
    QUICK,
    DirectCopies,
    Disk,
    InlineWorkers,
    KillingStore,
    Volume,
    World,
)

UUID = bytes(range(16))

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
        self.became_paired: Callable[[PairRecord], None] = lambda before: None
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
        self.rounds = SiteRounds(world, self)
        self.pairs = Pairs(
            store,
            volume,
            Workshop(
                cast("Any", self.rounds), lambda place, times: lambda: None, QUICK, self.peers
            ),
            folder,
            workers=workers,
            clock=lambda: 1.0,
        )
        self.followed = FollowedPairs(store, volume, folder, lambda: 1.0, workers)
        offer = cast("Any", lambda change, site, volume: None)
        self.exchange = Exchange(store, self.pairs, self.followed, self.peers, offer, lambda: 1.0)
        self.system = SimpleNamespace(
            sites=SimpleNamespace(on_up=lambda site: None),
            store=store,
            pairs=self.pairs,
            followed=self.followed,
            exchange=self.exchange,
            peers=self.peers,
            lent=self.rounds,
            changing=asyncio.Lock(),
        )
        self.site_pairs = SitePairs(cast("Any", self.system))

    async def start(self) -> None:
        await self.pairs.start()
        await self.followed.start()
        self.site_pairs.start()


class Command:
    """A copy of a few blocks to the other site's volume that a second controller carries out when
    it likes."""

    def __init__(self, site: str, there: Disk, at: int, values: bytes) -> None:
        """`site`: whose first controller gave it."""
        self.site = site
        self._there = there
        self._at = at
        self._values = values

    def carry_out(self) -> None:
        if not self._there.is_down:
            end = self._at + len(self._values)
            self._there.now[self._at : end] = self._values
            self._there.stable[:] = self._there.now


class SiteRounds(DirectCopies):
    """Rounds, piece by piece: to the other site by second controllers, which go past the link and
    the door while the volume is lent (as `control.lent_volumes`), else through both."""

    def __init__(self, world: TwoSites, owner: Controller) -> None:
        super().__init__(world)
        self._sites = world
        self._owner = owner
        self._is_busy = False

    async def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        here, there = (self._sites.disks[name.rpartition(":")[2]] for name in (source, destination))
        if ":" not in destination:
            async for confirmed in self._pieces(here, there, ranges, self._led_here):
                yield confirmed
            return
        self._to = destination.rpartition(":")[2]
        record = self._owner.records[pair]
        loan = self._sites.new_loan()
        self._is_busy, has_ended = True, False
        failure = None
        try:
            why_not = await self._owner.peers.lend(record, loan)
            way = self._led if why_not else self._past_the_door
            async for confirmed in self._pieces(here, there, ranges, way):
                yield confirmed
            has_ended = True
        except SiteRefused as refused:
            raise RoundFailed(str(refused)) from refused
        finally:
            self._is_busy = False
            failure = await self._ended(record, loan)
        if has_ended and failure is not None:
            raise failure

    async def give_back_what_is_left(self, record: PairRecord) -> None:
        """`LentVolumes.give_back_what_is_left`."""
        loan = self._owner.peers.loan(record)
        if loan and not self._is_busy:
            await self._ended(record, loan)

    async def _ended(self, record: PairRecord, loan: int) -> RoundFailed | None:
        if self._owner.is_dead:
            return None
        if self._sites.disks[record.primary].is_down:
            return RoundFailed("the second controller does not say whether it still writes")
        self._sites.end_commands(self._owner.site)
        try:
            await self._owner.peers.give_back(record, loan)
        except SiteRefused as refused:
            return RoundFailed(str(refused))
        return None

    async def _pieces(
        self,
        here: Disk,
        there: Disk,
        ranges: Sequence[tuple[int, int]],
        copy: Callable[[Disk, Disk, int, int], Any],
    ) -> AsyncGenerator[RangeSet, None]:
        before = self._sites.wire.generation, here.generation, there.generation
        confirmed = RangeSet()
        for first, blocks in ranges:
            for at in range(first, first + blocks, 5):
                count = min(5, first + blocks - at)
                if here.is_down or there.is_down:
                    raise RoundFailed("a disk is down")
                await copy(here, there, at, count)
                if before[1:] != (here.generation, there.generation):
                    raise RoundFailed("a disk was lost")
                confirmed.add(at, count)
                yield confirmed.copy()

    async def _led(self, here: Disk, there: Disk, at: int, count: int) -> None:
        """Through the door of the other site."""
        await self._led_here(here, there, at, count, self._to)

    async def _led_here(
        self, here: Disk, there: Disk, at: int, count: int, door_of: str = ""
    ) -> None:
        world, generation = self._sites, self._sites.wire.generation
        values = bytes(here.now[at : at + count])
        await self._turn()
        if not world.wire.is_up or world.wire.generation != generation:
            raise RoundFailed("the link was lost")
        if here.is_down or there.is_down:
            raise RoundFailed("a disk is down")
        if door_of:
            site = self._owner.site
            if not world.controllers[OTHER[site]].volumes[door_of].door(site).is_open:
                raise RoundFailed("the door is closed")
        world.is_copied(there, at, values)
        there.now[at : at + count] = values
        there.stable[:] = there.now

    async def _past_the_door(self, here: Disk, there: Disk, at: int, count: int) -> None:
        world = self._sites
        values = bytes(here.now[at : at + count])
        command = Command(self._owner.site, there, at, values)
        world.commands.append(command)
        world.is_copied(there, at, values)
        try:
            await self._turn()
            if here.is_down or there.is_down:
                raise RoundFailed("a disk is down")
            command.carry_out()
        finally:
            # Else nobody knows whether it has ended.
            if not self._owner.is_dead and not here.is_down and command in world.commands:
                world.commands.remove(command)

    async def _turn(self) -> None:
        """Wait until a piece may be copied."""
        while not self._sites.pieces_left:
            await self._sites.rounds_go.wait()
        self._sites.pieces_left -= 1
        await asyncio.sleep(0)


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
        self._told = disk.generation
        self._door = PeerDoor(disk)

    @property
    def has_to_tell_of_a_reset(self) -> bool:
        """To the other site, with its next command."""
        return self._told != self.device.generation

    @has_to_tell_of_a_reset.setter
    def has_to_tell_of_a_reset(self, has_to: bool) -> None:
        assert not has_to
        self._told = self.device.generation

    def door(self, site: str) -> PeerDoor:
        return self._door


class Records(dict[str, PairRecord]):
    """What a store holds, and all that it held."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[PairRecord] = []
        self.told: Callable[[PairRecord], None] = lambda record: None
        """Called with each as it comes in."""

    def __setitem__(self, name: str, record: PairRecord) -> None:
        super().__setitem__(name, record)
        self.history.append(record)
        self.told(record)


class TwoSites(World):
    """Both sites, and the link."""

    volumes_of: Mapping[str, Sequence[str]] = {LEADER: ["alpha"], FOLLOWER: ["beta"]}

    def __init__(self, folder: Path) -> None:
        self.kept = {LEADER: Records(), FOLLOWER: Records()}
        self.controllers: dict[str, Controller] = {}
        super().__init__(folder, [name for names in self.volumes_of.values() for name in names])
        self.wire = Wire()
        self.commands: list[Command] = []
        """Of second controllers, under way."""
        self.mixtures: set[str] = set()
        """Volumes to which something was copied that made them another, since the sides were the
        same."""
        self._loans = 0
        self._boots = {LEADER: 1, FOLLOWER: 1}
        self._files: dict[Path, SimulatedDisk] = {}
        self._open = DifferentialBitmap.open
        self._opening = mock.patch.object(DifferentialBitmap, "open", self._open_bitmap)
        self._opening.start()
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

    # --- files

    def _open_bitmap(self, path: Path, **settings: Any) -> DifferentialBitmap:
        boot = self._boots[path.parent.name].to_bytes(16, "big")
        return self._open(path, **settings, boot_id=boot, open_file=self._file)

    def _file(self, path: Path) -> SimulatedDisk:
        found = self._files.get(path)
        if found is None or found.is_removed:
            found = self._files[path] = SimulatedDisk()
        return found

    def _files_of(self, site: str) -> list[Path]:
        return sorted(path for path in self._files if path.parent.name == site)

    def lose_bitmap(self, site: str, page: int | None) -> None:
        """Of a controller that does not run: a page of each of its bitmaps, or (None) all."""
        for path in self._files_of(site):
            if page is None:
                del self._files[path]
            else:
                self._files[path].damage(page, b"\xa5" * PAGE)

    # --- controllers

    def create(self, record: PairRecord) -> None:
        """The pair, at both sites; whoever does not run is started first."""
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
        """A controller comes up, where none runs."""
        controller = self.controllers[site] = Controller(self, site)
        self.end_commands(site)  # it logs in to second controllers: sessions of before have ended
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

    def kill_site(self, site: str) -> None:
        """Its controller is killed; the other one sees the link go."""
        controller = self.controllers.pop(site)
        controller.is_dead = True
        for path in self._files_of(site):
            self._files[path] = self._files[path].left_behind()
        for pair in controller.pairs.all():
            if pair.applier is not None:
                pair.applier.journal._file.close()
        for disk in self.disks_of(site):
            disk.forget_answers()
            disk.is_deaf = True
        for handle in list(self.loop._scheduled):  # type: ignore[attr-defined]
            if handle._context.get(_life) is controller:
                handle.cancel()
        while tasks := [
            task for task in asyncio.all_tasks(self.loop) if self._runs_for.get(task) is controller
        ]:
            for task in tasks:
                task.cancel()
            self._go_on(dying=True)
        for disk in self.disks_of(site):
            disk.is_deaf = False
        self._lose_link()
        self.settle()

    def cut_power_of(self, site: str, kept: int) -> None:
        """All of a site stops at once: of what its disks and files were not asked to keep, `kept`
        says what is there afterwards."""
        self.kill_site(site)
        self._boots[site] += 1
        for path in self._files_of(site):
            self._files[path].cut_power(lambda versions: kept % versions)
        self.commands = [command for command in self.commands if command.site != site]
        for disk in self.disks_of(site):
            disk.lose_power(kept)

    def disks_of(self, site: str) -> list[Disk]:
        return [self.disks[name] for name in self.volumes_of[site]]

    def is_copied(self, there: Disk, at: int, values: bytes) -> None:
        """Somebody copies these blocks to a disk."""
        if there.now[at : at + len(values)] != values:
            self.mixtures.update(name for name, disk in self.disks.items() if disk is there)

    def reset_disk(self, site: str, kept: int) -> None:
        """Only its second controller loses its power, and is there again."""
        disk = self.disks[VOLUMES[site]]
        self.call(disk.release)
        disk.lose_power(kept)
        self.end_commands(site)
        self.settle()

    def heal_disk(self, site: str) -> None:
        """It is reached again; what was under way there ended with the session of before."""
        disk = self.disks[VOLUMES[site]]
        if disk.is_down:
            disk.heal()
            self.end_commands(site)
        self.settle()

    def close(self) -> None:
        for site in list(self.controllers):
            self.kill_site(site)
        self.loop.close()
        self._opening.stop()

    # --- between the sites

    def cut_link(self) -> None:
        """Nothing passes; what was on the way may have come, and nobody hears of it."""
        self.drop_link()
        self.settle()

    def drop_link(self) -> None:
        """As `cut_link`, from within."""
        self.wire.is_up = False
        self._lose_link()

    def heal_link(self) -> None:
        self.wire.is_up = True
        self._link_is_there()

    def _lose_link(self) -> None:
        self.wire.generation += 1
        for controller in self.controllers.values():
            for volume in controller.volumes.values():
                volume.has_to_tell_of_a_reset = False  # the next session is a new one anyhow
        self.loop.call_soon(self.wire.lose)

    def _link_is_there(self) -> None:
        if self.wire.is_up and len(self.controllers) == 2 and not self.is_dead:
            for site, controller in self.controllers.items():
                self.call_at(site, partial(controller.system.sites.on_up, OTHER[site]))

    def deliver_late(self, age: int) -> None:
        """One of the last envelopes arrives, for the first time or again."""
        if age < len(self.wire.sent):
            site, envelope = self.wire.sent[-1 - age]
            receiver = self.controllers.get(OTHER[site])
            if receiver is not None:
                self.run_at(receiver.site, receiver.site_pairs.receive(site, 0, envelope))

    def new_loan(self) -> int:
        self._loans += 1
        return self._loans

    def end_commands(self, site: str = "") -> None:
        """Second controllers (of a site) carry out what is under way."""
        ended = [command for command in self.commands if site in ("", command.site)]
        for command in ended:
            command.carry_out()
            self.commands.remove(command)

    @contextmanager
    def slow(self, site: str, *, stuck: int, newest_first: bool) -> Iterator[None]:
        """Its disk carries out what it is sent at the end of this, and answers then: so many
        changes, or (0) everything."""
        disk = self.disks[VOLUMES[site]]
        disk.stuck = stuck
        disk.is_slow = disk.is_late = not stuck
        yield
        self.call(partial(disk.release, newest_first=newest_first))


def led(**changes: Any) -> PairRecord:
    """The record of the leader."""
    return PairRecord(
        name="p", primary="alpha", secondary=f"{FOLLOWER}:beta", granularity=GRANULARITY,
        mixture=f"{FOLLOWER}:beta", created=1.0, changed=1.0, site=FOLLOWER, uuid=UUID.hex(),
        peer_naa=NAA_OF["beta"], sequence=1, state=PairState.COPYING,
    ).model_copy(update=changes)  # fmt: skip
