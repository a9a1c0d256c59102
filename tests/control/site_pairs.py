"""What tests of pairs over two sites do at the sites tokyo, which leads, and osaka."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from daiko.control import pairs
from daiko.copy_manager.settings import Retries
from daiko.device.awaitable import write
from daiko.initiator.settings import InitiatorSettings
from daiko.pair.live_pair import PairStatus
from daiko.pair.settings import PairSettings
from daiko.pair.state import Verb
from daiko.pair.surroundings import SiteRefused
from daiko.scsi.pair_envelopes import Answer, Exchange, Request
from daiko.state.pair_record import PairState
from site_rig import Site

BLOCKS = 4096
SIZE = BLOCKS * 512
REGION = 64 << 10
QUICK = PairSettings(settle_seconds=0.01, retry_seconds=(0.01, 0.02, 0.05))


def quick(site: Site, settings: PairSettings = QUICK) -> None:
    """Patience that fits a test: who waits for it learns the same, sooner."""
    site.system.pairs._workshop = replace(site.system.pairs._workshop, settings=settings)
    site.system.peers._settings = settings
    manager = site.system.copy_manager
    manager.settings = replace(manager.settings, retries=Retries((0.01, 0.02, 0.05)))
    for link in site.system.sites._links.values():
        link._session._controller.use_settings(
            InitiatorSettings(grace=0.2, reconnect_longest=0.2, login_timeout=5.0)
        )


async def disk(site: Site, name: str, blocks: int = BLOCKS) -> None:
    """A volume of random bytes."""
    await site.volume(name, blocks)
    (site.folder / f"{name}.img").write_bytes(
        random.Random(site.name + name).randbytes(blocks * 512)
    )


def on_disk(site: Site, volume: str) -> bytes:
    return (site.folder / f"{volume}.img").read_bytes()


async def paired(tokyo: Site, name: str = "p", **more: object) -> PairStatus:
    await pairs.create(
        tokyo.system,
        name,
        "alpha",
        "osaka:beta",
        confirmed=True,
        **more,  # type: ignore[arg-type]
    )
    return await reached(tokyo, PairState.PAIRED, name)


async def reached(site: Site, state: PairState, name: str = "p") -> PairStatus:
    (status,) = await pairs.wait(site.system, name, [state], 30)
    assert status.record.state is state, status
    return status


async def put(site: Site, volume: str, lba: int, data: bytes) -> None:
    """As a host of the site writes."""
    await write(site.system.unit(volume).device, lba, data)


async def do(site: Site, verb: Verb, name: str = "p", *, confirmed: bool = True) -> None:
    await pairs.do(site.system, name, verb, confirmed=confirmed)


def lose_offers(site: Site, monkeypatch: pytest.MonkeyPatch, *, arrive: bool) -> None:
    """Offers of the lead that this site makes arrive, or do not; no answer comes."""
    peers = site.system.peers
    exchange = peers.exchange

    async def lossy(name: str, message: Request) -> Answer:
        if not isinstance(message, Exchange):
            return await exchange(name, message)
        if arrive:
            await exchange(name, message)
        raise SiteRefused("the link went down")

    monkeypatch.setattr(peers, "exchange", lossy)
