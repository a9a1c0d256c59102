"""A host that writes to a pair, knows what it was told is done, and checks it: while processes are
killed round it. `tests/system/test_pairs.py` kills a few, `make soak-pairs` many."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

from daiko.backend.second_controller import SecondController
from daiko.device.awaitable import read, write
from daiko.device.error import DeviceError
from processes import PATIENCE, Daiko, Process, ProcessFailed, image

BLOCK = 4096
CELLS = 512
"""Of the volume, from its start, that are written to; the rest is as it was."""
HOST = "iqn.2026-11.com.example:pair-load"


class Load:
    """Writes versions into cells of 4 KiB of a LUN, eight at a time, over and over."""

    def __init__(self, daiko: Daiko, lun: int, seed: int) -> None:
        self.daiko = daiko
        self.lun = lun
        self.done = [0] * CELLS
        """The version of each cell that was acknowledged last; 0: none."""
        self.sent = [0] * CELLS
        """The last one that was sent."""
        self.acknowledged = 0
        self._chance = random.Random(seed)
        self._stop = False
        self._host: SecondController | None = None

    async def run(self) -> None:
        """Write until `stop`; a controller that is gone is waited for."""
        while not self._stop:
            try:
                await self._session()
            except DeviceError:
                await asyncio.sleep(0.02)  # it is being restarted

    def stop(self) -> None:
        self._stop = True

    async def progress(self, writes: int) -> None:
        """Wait until so many more were acknowledged. Raises TimeoutError."""
        wanted = self.acknowledged + writes
        async with asyncio.timeout(PATIENCE):
            while self.acknowledged < wanted:  # noqa: ASYNC110  # as often as it writes
                await asyncio.sleep(0.005)

    async def check(self) -> None:
        """Read all cells: each has the version acknowledged last, or one sent since. Raises
        AssertionError."""
        host = SecondController("check", self.daiko.iqn, [self.daiko.portal], HOST)
        await host.open()
        try:
            device = host.device(self.lun)
            for cell in range(CELLS):
                data = bytes(await read(device, cell * BLOCK // 512, BLOCK // 512))
                if not self.sent[cell]:
                    continue
                found = int.from_bytes(data[:8], "big")
                assert data == stamp(cell, found) or (not self.done[cell] and found == 0), (
                    f"cell {cell} is torn"
                )
                assert self.done[cell] <= found <= self.sent[cell], (
                    f"cell {cell} has version {found}; {self.done[cell]} was acknowledged, "
                    f"{self.sent[cell]} sent"
                )
        finally:
            await host.close()

    async def _session(self) -> None:
        host = SecondController("load", self.daiko.iqn, [self.daiko.portal], HOST)
        await host.open()
        try:
            async with asyncio.TaskGroup() as group:
                for worker in range(8):
                    group.create_task(self._write(host, worker))
        except* DeviceError as errors:
            raise errors.exceptions[0] from errors
        finally:
            await host.close()

    async def _write(self, host: SecondController, worker: int) -> None:
        device = host.device(self.lun)
        while not self._stop:
            cell = self._chance.randrange(CELLS // 8) * 8 + worker
            version = self.sent[cell] + 1
            self.sent[cell] = version
            await write(device, cell * BLOCK // 512, stamp(cell, version))
            self.done[cell] = version
            self.acknowledged += 1


def stamp(cell: int, version: int) -> bytes:
    """The contents of a cell in a version."""
    head = version.to_bytes(8, "big") + cell.to_bytes(8, "big")
    return head * (BLOCK // len(head))


class Rig:
    """Two second controllers, each with a volume of a pair, and the first controller over them."""

    def __init__(self, folder: Path, size: int) -> None:
        self.files = [image(folder / f"{name}.img", size, seed=7) for name in ("one", "two")]
        with self.files[1].open("r+b") as file:
            file.write(bytes(size))
        self.below = [
            Daiko(folder, file, name=f"sd{place}", mode="local", store=folder / f"sd{place}")
            for place, file in enumerate(self.files)
        ]
        self.first = Daiko(
            folder,
            self.below[0].url(),
            lun={1: [self.below[1].url()]},
            name="first",
            store=folder / "first",
        )
        self.processes: list[Process] = [self.first, *self.below]

    def start(self) -> None:
        for process in (*self.below, self.first):
            process.start()

    def stop(self) -> None:
        for process in self.processes:
            process.stop()

    def state(self) -> str:
        return str(self.first.rest("GET", "/v1/pairs/p").raise_for_status().json()["state"])

    def wait_until_paired(self) -> None:
        """Resync where an error split it. Raises ProcessFailed."""
        deadline = time.monotonic() + 3 * PATIENCE
        while time.monotonic() < deadline:
            done = self.first.cli("pair", "wait", "p", "--timeout", "5", check=False)
            if done.returncode == 0:
                return
            if self.state() == "split-by-error":
                self.first.cli("pair", "resync", "p", "--yes", check=False)
        raise ProcessFailed(f"the pair is {self.state()} and does not become paired")

    def are_equal(self) -> bool:
        one, two = (file.read_bytes() for file in self.files)
        return one == two


async def kill_at_random(
    rig: Rig, kills: int, seed: int, said: Callable[[str], None] = lambda line: None
) -> int:
    """Kill processes of the rig under load, one at a time, and start each again; at the end, and
    now and then, everything must be as it was acknowledged, on both sides. Returns the writes that
    were acknowledged. Raises AssertionError."""
    chance = random.Random(seed)
    load = Load(rig.first, 0, seed)
    task = asyncio.create_task(load.run())
    try:
        for number in range(1, kills + 1):
            await load.progress(50 + chance.randrange(200))
            victim = chance.choice(rig.processes)
            victim.kill()
            await asyncio.to_thread(victim.start)
            said(f"{number}: {victim.name} killed, {load.acknowledged} writes acknowledged")
            await load.progress(20)
            if number % 25 == 0:
                await asyncio.to_thread(rig.wait_until_paired)
                await load.progress(50)
    finally:
        load.stop()
        await asyncio.wait({task}, timeout=3 * PATIENCE)
    task.result()
    await asyncio.to_thread(rig.wait_until_paired)
    await load.check()
    rig.first.cli("pair", "split", "p")
    assert rig.are_equal(), "the pair said paired, and its sides differ"
    return load.acknowledged
