"""A second controller for `isolation.py`: LUN 0 in memory behind the delay layer.

python slow_target.py IQN       prints HOST:PORT, and serves until it is killed. A line with seconds
                                on standard input: so late it answers from then on; it says so by
                                the same line on standard output.
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


async def main(iqn: str) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    device = Delay(MemoryDevice(1 << 16), 0.0)
    access = Access()
    access.publish({"*": {0: LogicalUnit(Identity("slow", bytes((0x60, *bytes(15)))), device)}})

    def told() -> None:
        line = sys.stdin.readline().strip()
        device.seconds = float(line)
        print(line, flush=True)

    asyncio.get_running_loop().add_reader(sys.stdin, told)
    print(await Target(iqn, access).listen("127.0.0.1:0"), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
