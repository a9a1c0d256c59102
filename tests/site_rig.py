"""Two sites in one process: two first controllers that reach one another over real sockets.

Each has own disks of zeros; what makes them differ is for the tests. Nothing here sleeps: a test
waits for the state of a link, or for a session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from daiko.backend.site_link import SiteLink
from daiko.backend.site_session import LinkState, LinkStatus
from daiko.control import sites
from daiko.control.chap import Chap
from daiko.control.sites import SiteState
from daiko.control.system import System
from daiko.control.volumes import create_whole
from daiko.mapping.extent import DeviceId
from daiko.state.record import BackendKind, BackendRecord, PortalGroupRecord, SystemRecord
from daiko.state.sqlite import SqliteStore
from processes import free_port

PATIENCE = 30.0


class Site:
    """One first controller; it can be stopped, and started again on the same port."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.iqn = f"iqn.2026-11.com.example:{name}"
        self.portal = f"127.0.0.1:{free_port()}"
        self._store: SqliteStore | None = None
        self._system: System | None = None

    @property
    def system(self) -> System:
        assert self._system is not None, f"{self.name} does not run"
        return self._system

    @property
    def address(self) -> str:
        """As `site add` takes it."""
        return f"iscsi://{self.portal}/{self.iqn}"

    @property
    def initiator(self) -> str:
        return f"{self.iqn}.initiator"

    async def start(self) -> None:
        self._store = SqliteStore.open(self.folder / "store")
        if self._store.get(SystemRecord, "system") is None:
            await self._store.put(SystemRecord(iqn=self.iqn, initiator_iqn=self.initiator))
            await self._store.put(
                PortalGroupRecord(tag=1, portals=(self.portal,), target_port_group=1)
            )
        self._system = await System.start(self._store, kept_in=self.folder)
        await self._system.listen()

    async def stop(self) -> None:
        if self._system is not None and self._store is not None:
            await self._system.stop()
            await self._store.close()
            self._system = self._store = None

    async def volume(self, name: str, blocks: int = 2048, block_size: int = 512) -> None:
        """A volume on an own disk called `NAME-disk`."""
        path = self.folder / f"{name}.img"
        with path.open("wb") as file:
            file.truncate(blocks * block_size)
        disk = f"{name}-disk"
        await self.system.attach_backend(
            BackendRecord(
                name=disk, type=BackendKind.INTERNAL, path=str(path), block_size=block_size
            )
        )
        await create_whole(self.system, name, [DeviceId(disk, 0)])

    async def add(self, other: Site, *, without_chap: bool = True, **changes: str) -> SiteState:
        """Name the other site; by CHAP unless said otherwise."""
        users = {"own": self.name, "theirs": other.name, **changes}
        return await sites.add(
            self.system,
            other.name,
            other.address,
            login=None if without_chap else login_of(users["own"]),
            peer=None if without_chap else login_of(users["theirs"]),
            without_chap=without_chap,
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until a commit to the store has made it true."""
        committed = asyncio.Event()
        unwatch = self.system.store.watch(lambda changes: committed.set())
        async with asyncio.timeout(PATIENCE):
            while not holds():
                committed.clear()
                await committed.wait()
        unwatch()

    def link(self, other: Site) -> SiteLink:
        return self.system.sites.link(other.name)

    def sees(self, other: Site) -> bool:
        """Is the other one logged in here?"""
        return any(n.initiator_name == other.initiator for n in self.system.sessions())


def login_of(name: str) -> Chap:
    """The CHAP user by which a site logs in, wherever."""
    return Chap(name, f"the secret of {name}")


async def reaches(link: SiteLink, state: LinkState, words: str = "") -> LinkStatus:
    """The status of a link once it is in this state, with these words in its detail."""
    return await becomes(link, lambda now: now.state is state and words in now.detail)


async def becomes(link: SiteLink, holds: Callable[[LinkStatus], bool]) -> LinkStatus:
    changed = asyncio.Event()
    unwatch = link.watch(lambda status: changed.set())
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds(link.status):
                changed.clear()
                await changed.wait()
    except TimeoutError:
        raise AssertionError(f"the link is {link.status}") from None
    finally:
        unwatch()
    return link.status


async def linked(one: Site, other: Site, *, without_chap: bool = True) -> None:
    """Start both, and name each to the other."""
    for site in (one, other):
        await site.start()
    await one.add(other, without_chap=without_chap)
    await other.add(one, without_chap=without_chap)
    await one.link(other).probe()
    await reaches(one.link(other), LinkState.UP)
    await reaches(other.link(one), LinkState.UP)
