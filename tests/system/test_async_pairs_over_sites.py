"""An asynchronous consistency group over two sites, each a process of its own, under load: the link
is cut and comes back, the site that leads is killed, and the other one takes over; or the roles are
exchanged while hosts write."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from daiko.backend.second_controller import SecondController
from daiko.device.awaitable import read, write
from daiko.device.error import DeviceError, WriteProtected
from daiko.initiator.settings import InitiatorSettings
from network_path import NetworkPath
from processes import PATIENCE, Daiko, image

BLOCK = 512
CELLS = 4096
"""Blocks of a volume that records are written to, over and over."""
VOLUMES = {"tokyo": ("alpha", "gamma"), "osaka": ("beta", "delta")}
HOST = "iqn.2026-11.com.example:records"


class Records:
    """A host that writes numbered records to two volumes by turns. Each waits for the one before,
    so what it has written is one sequence."""

    def __init__(self, daiko: Daiko, after: int = 0) -> None:
        """The first record has the number after this one."""
        self.sent = after
        self.acknowledged: list[float] = []
        """When each was, in seconds since the epoch."""
        self._daiko = daiko
        self._work: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._work = asyncio.create_task(self._write())

    async def progress(self, records: int) -> None:
        """Wait until so many more were acknowledged. Raises TimeoutError, and what ended it."""
        wanted = len(self.acknowledged) + records
        async with asyncio.timeout(PATIENCE):
            while len(self.acknowledged) < wanted:  # as often as it writes
                assert self._work is not None
                if self._work.done():
                    await self._work
                await asyncio.sleep(0.005)

    async def ended(self, error: type[DeviceError] = DeviceError) -> None:
        """Wait until its controller is gone, or refuses its writes by this error."""
        assert self._work is not None
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(error):
                await self._work

    async def _write(self) -> None:
        host = SecondController("records", self._daiko.iqn, [self._daiko.portal], HOST)
        await host.open()
        host.use_settings(InitiatorSettings(grace=0.2))
        try:
            devices = [host.device(lun) for lun in (0, 1)]
            while True:
                number = self.sent = self.sent + 1
                await write(devices[number % 2], _cell(number), _record(number))
                self.acknowledged.append(time.time())
        finally:
            await host.close()


def _cell(number: int) -> int:
    return number // 2 % CELLS


def _record(number: int) -> bytes:
    return number.to_bytes(8, "big") * (BLOCK // 8)


async def newest(daiko: Daiko) -> int:
    """The newest record on the two volumes of a site, all of which are there that were sent before
    it, and no later one. Raises AssertionError."""
    host = SecondController("check", daiko.iqn, [daiko.portal], HOST)
    await host.open()
    try:
        found = [bytes(await read(host.device(lun), 0, CELLS)) for lun in (0, 1)]
    finally:
        await host.close()
    numbers = [
        [int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), BLOCK)]
        for data in found
    ]
    last = max(max(each) for each in numbers)
    expected = [[0] * CELLS for _ in (0, 1)]
    for number in range(max(1, last - 4 * CELLS), last + 1):
        expected[number % 2][_cell(number)] = number
    for lun in (0, 1):
        wrong = [cell for cell in range(CELLS) if numbers[lun][cell] != expected[lun][cell]]
        assert not wrong, (
            f"record {last} is there; cell {wrong[0]} of volume {lun} has record "
            f"{numbers[lun][wrong[0]]} and not {expected[lun][wrong[0]]}, as {len(wrong)} in all"
        )
    return last


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Daiko, Daiko, NetworkPath]]:
    """tokyo, osaka, and the way from tokyo to osaka. Their volumes are zeros."""
    made = {name: Daiko(tmp_path, name=name, store=tmp_path / name) for name in VOLUMES}
    async with AsyncExitStack() as stack:
        for daiko in made.values():
            await asyncio.to_thread(stack.enter_context, daiko)
        tokyo, osaka = made.values()
        path = await stack.enter_async_context(NetworkPath(int(osaka.portal.rpartition(":")[2])))
        for here, there, portal in ((tokyo, osaka, path.portal), (osaka, tokyo, tokyo.portal)):
            await cli(here, "site", "add", there.name, f"iscsi://{portal}/{there.iqn}",
                      "--without-chap")  # fmt: skip
            await cli(here, "host", "add", "any", "--initiator", "*")
            for lun, volume in enumerate(VOLUMES[here.name]):
                file = image(tmp_path / f"{volume}.img", CELLS * BLOCK)
                await cli(here, "backend", "add", f"{volume}-disk", str(file))
                await cli(here, "volume", "add", volume, "--image", f"{volume}-disk/0")
                await cli(here, "host", "map", "any", volume, "--lun", str(lun))
        for volume in VOLUMES["osaka"]:
            await cli(osaka, "site", "offer", "tokyo", volume)
        await cli(tokyo, "site", "probe", "osaka")
        yield tokyo, osaka, path


async def cli(daiko: Daiko, *arguments: str, check: bool = True) -> Any:
    """While the way between the sites goes on."""
    return await asyncio.to_thread(daiko.cli, *arguments, check=check)


async def shown(daiko: Daiko) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await cli(daiko, "pair", "ls", "--json")).stdout)
    return found


async def good_since(osaka: Daiko, moment: float) -> float:
    """As of when the secondaries are good, once that is at or after `moment`."""
    async with asyncio.timeout(PATIENCE):
        while True:
            good = [pair["good_as_of"] or 0.0 for pair in await shown(osaka)]
            if min(good) >= moment:
                return min(good)


async def create(tokyo: Daiko, osaka: Daiko) -> None:
    for primary, secondary in zip(VOLUMES["tokyo"], VOLUMES["osaka"], strict=True):
        await cli(tokyo, "pair", "create", f"{primary}-far", primary, f"osaka:{secondary}", "--yes",
                  "--update", "async", "--journal", "64MiB", "--group", "far")  # fmt: skip
    for site in (tokyo, osaka):
        await cli(site, "pair", "wait", "far", "--timeout", "60")


def are_equal(folder: Path) -> bool:
    return all(
        (folder / f"{primary}.img").read_bytes() == (folder / f"{secondary}.img").read_bytes()
        for primary, secondary in zip(VOLUMES["tokyo"], VOLUMES["osaka"], strict=True)
    )


async def test_site_takes_a_group_over_with_all_that_was_written_until_one_instant(
    both: tuple[Daiko, Daiko, NetworkPath], tmp_path: Path
) -> None:
    tokyo, osaka, path = both
    await create(tokyo, osaka)
    host = Records(tokyo)
    host.start()
    await host.progress(500)
    path.cut()
    await host.progress(500)
    assert {pair["state"] for pair in await shown(tokyo)} == {"paired"}
    behind = await newest(osaka)
    assert behind <= len(host.acknowledged) - 500
    await path.open()
    await good_since(osaka, host.acknowledged[behind])
    await host.progress(500)

    tokyo.kill()
    await host.ended()
    good = await good_since(osaka, 0.0)
    refused = await cli(osaka, "pair", "swap", "alpha-far", "--yes", check=False)
    assert "taken over as one: name far" in refused.stderr
    await cli(osaka, "pair", "swap", "far", "--yes")
    last = await newest(osaka)
    assert sum(when < good for when in host.acknowledged) <= last <= host.sent
    assert last > behind

    await asyncio.to_thread(tokyo.start)
    await cli(tokyo, "site", "probe", "osaka")
    await cli(tokyo, "pair", "wait", "far", "--state", "split", "--timeout", "60", check=False)
    await cli(tokyo, "pair", "resync", "far", "--reverse", "--yes")
    await cli(tokyo, "pair", "wait", "far", "--timeout", "60")
    assert await newest(tokyo) == last
    assert are_equal(tmp_path)


async def test_roles_are_exchanged_while_hosts_write_and_the_new_leader_may_be_lost(
    both: tuple[Daiko, Daiko, NetworkPath], tmp_path: Path
) -> None:
    tokyo, osaka, _ = both
    await create(tokyo, osaka)
    host = Records(tokyo)
    host.start()
    await host.progress(500)
    done = await cli(tokyo, "pair", "swap", "far")
    assert done.stdout.splitlines() == [
        f"{primary}-far is paired, and site osaka leads it" for primary in VOLUMES["tokyo"]
    ]
    await host.ended(WriteProtected)
    last = await newest(osaka)
    assert last == len(host.acknowledged) == host.sent - 1
    assert are_equal(tmp_path)

    host = Records(osaka, last)
    host.start()
    await host.progress(500)
    await good_since(tokyo, host.acknowledged[100])
    osaka.kill()
    await host.ended()
    good = await good_since(tokyo, 0.0)
    await cli(tokyo, "pair", "swap", "far", "--yes")
    found = await newest(tokyo)
    assert last + sum(when < good for when in host.acknowledged) <= found <= host.sent

    await asyncio.to_thread(osaka.start)
    await cli(osaka, "site", "probe", "tokyo")
    await cli(osaka, "pair", "wait", "far", "--state", "split", "--timeout", "60", check=False)
    await cli(osaka, "pair", "resync", "far", "--reverse", "--yes")
    await cli(osaka, "pair", "wait", "far", "--timeout", "60")
    assert await newest(osaka) == found
    await cli(osaka, "pair", "swap", "far")
    assert {pair["primary"] for pair in await shown(tokyo)} == set(VOLUMES["tokyo"])
    assert await newest(tokyo) == found
    assert are_equal(tmp_path)
