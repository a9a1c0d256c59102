"""A target with file LUs and nothing else, as a process: `serve_file.py [--block-size N]
[--read-only] [--memory BYTES] FILE...`

LUN 0, 1, … are the files. Prints `HOST:PORT` of its portal, then `ready`, and serves until it
is ended. It puts access, logical units and port together without the rest of the controller, so
that a failure of the conformance suite lies in one of these.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from daiko.backend.file import FileDevice
from daiko.target.access import Access
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.portal import Target

IQN = "iqn.2026-11.test.daiko:conformance"


async def serve(paths: list[Path], block_size: int, read_only: bool, memory: int) -> None:
    """Serve until SIGTERM."""
    units = {}
    for lun, path in enumerate(paths):
        naa = bytes.fromhex("602da100") + hashlib.sha256(path.name.encode()).digest()
        identity = Identity(path.stem, naa[:16], product="FILE LU")
        units[lun] = LogicalUnit(identity, FileDevice.open(path, block_size), read_only=read_only)
    access = Access()
    access.publish({"*": units})
    target = Target(IQN, access)
    if memory:
        target.budget.total = memory
    bound = await target.listen("127.0.0.1:0")
    print(f"{bound}\nready", flush=True)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await target.stop()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--memory", type=int, default=0, help="bytes for data of commands")
    parser.add_argument("files", nargs="+", type=Path)
    arguments = parser.parse_args()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    serving = serve(arguments.files, arguments.block_size, arguments.read_only, arguments.memory)
    uvloop.run(serving)


if __name__ == "__main__":
    main()
