"""A second controller for `isolation.py`: LUN 0 in memory behind the delay layer.

python slow_target.py IQN SECONDS        prints HOST:PORT, and serves until it is killed
"""

from __future__ import annotations

import asyncio
import sys

import structlog

from daiko.backend.memory import MemoryDevice
from daiko.device.layer.delay import Delay
from daiko.target.access import Access
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.portal import Target


async def main(iqn: str, seconds: float) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    device = Delay(MemoryDevice(1 << 16), seconds)
    access = Access()
    access.publish({"*": {0: LogicalUnit(Identity("slow", bytes((0x60, *bytes(15)))), device)}})
    print(await Target(iqn, access).listen("127.0.0.1:0"), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
