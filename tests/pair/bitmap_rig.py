"""A differential bitmap on a disk and with threads that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from daiko.pair.bitmap_file import AREA
from daiko.pair.differential_bitmap import DifferentialBitmap
from simulated_disk import HandThreads, SimulatedDisk

GIB = 1 << 30
BLOCKS = 8 * GIB // 512
A_REGION = (64 << 10) // 512
AN_AREA = AREA // 512
IDENTITY = bytes(range(16))
OTHER_BOOT = b"another boot of."


def opened(path: Path | None, **settings: object) -> DifferentialBitmap:
    given = {"blocks": BLOCKS, "block_size": 512, "identity": IDENTITY, **settings}
    return DifferentialBitmap.open(path, **given)  # type: ignore[arg-type]


async def marked(bitmap: DifferentialBitmap, lba: int, blocks: int = 8) -> OSError | None:
    """Until a write may be sent, or never will be."""
    told: asyncio.Future[OSError | None] = asyncio.get_running_loop().create_future()
    bitmap.when_marked(lba, blocks, told.set_result)
    return await told


class Rig:
    def __init__(self, **settings: object) -> None:
        self.disk = SimulatedDisk()
        self.threads = HandThreads()
        self.settings = settings
        self.bitmap = self.open()
        self.told: list[tuple[int, OSError | None]] = []

    def open(self, boot: bytes = b"the first boot..") -> DifferentialBitmap:
        return opened(
            Path("simulated"),
            boot_id=boot,
            workers=self.threads,
            open_file=lambda path: self.disk,
            **self.settings,
        )

    def open_again(self) -> DifferentialBitmap:
        """By the next process on the same boot."""
        self.disk.opened()
        return self.open()

    def wait(self, lba: int, blocks: int = 8) -> None:
        self.bitmap.when_marked(lba, blocks, lambda error: self.told.append((lba, error)))

    def heat(self, *areas: int) -> None:
        for area in areas:
            self.wait(area * AN_AREA)
        self.threads.settle()
        self.told.clear()

    def run(self, what: Callable[[], object]) -> None:
        self.threads.at_once = True
        asyncio.run(what())  # type: ignore[arg-type]
        self.threads.at_once = False
