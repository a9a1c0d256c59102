"""Invariant: no copy command of a host reads or writes what is another host's; each is answered."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS))

import structlog  # noqa: E402

import copy_target  # noqa: E402
from copy_target import CopyTarget, backup, cscd, parameters  # noqa: E402
from daiko.scsi.alias import Alias, pack_change_aliases  # noqa: E402
from daiko.scsi.cscd import AliasCscd, Ipv4Cscd, Ipv6Cscd  # noqa: E402
from daiko.scsi.opcode import Status  # noqa: E402
from daiko.scsi.segment import BlockToBlock, VerifyCscd  # noqa: E402
from daiko.state.sqlite import SqliteStore  # noqa: E402

# The rig of the tests: a first controller whose volumes lie on three second controllers, one of
# which can copy. alice sees alpha, vault, big and sealed; secret is bob's, and lies on the same
# device as half of alpha.
# A case: bits 0-2 of the first byte = command (0-3 EXTENDED COPY, 4 CHANGE ALIASES, 5 RECEIVE COPY
# RESULTS, 6 REPORT ALIASES, 7 any CDB with opcode 83h), bits 4-5 = LUN; then its parameter list,
# or bytes of its CDB.
COST = 20
SECRET_DEVICE, SECRET_AT, SECRET_BLOCKS = "sd2/0", 500, 500
SECRET = b"bob's and nobody else's" * 2
SEALED_AT, SEALED_BLOCKS = 400, 100
FAR = "192.0.2.7:3260"

structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])
copy_target.QUICK = replace(copy_target.QUICK, host_jobs_kept=20)
LOOP = asyncio.new_event_loop()
FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


async def _start() -> CopyTarget:
    store = SqliteStore.open(Path(FOLDER.name) / "store")
    target = await CopyTarget.start(store, remote_copy=(FAR,))
    size = SECRET_BLOCKS * 512
    text = (SECRET * (size // len(SECRET) + 1))[:size]
    unit = target.units["secret"]
    written: list[object] = []
    unit.device.write(0, text, written.append)
    assert written == [None]
    return target


TARGET = LOOP.run_until_complete(_start())
SECRET_BYTES = TARGET.rig.content(SECRET_DEVICE, SECRET_AT, SECRET_BLOCKS)
SEALED_BYTES = TARGET.rig.content(SECRET_DEVICE, SEALED_AT, SEALED_BLOCKS)
assert SECRET in SECRET_BYTES


async def _stop() -> None:
    await TARGET.stop()
    await TARGET.store.close()


def close() -> None:
    LOOP.run_until_complete(_stop())
    FOLDER.cleanup()


def corpus() -> list[bytes]:
    alpha, vault, secret = cscd("alpha"), cscd("vault"), cscd("secret")
    copy = BlockToBlock(0, 1, 16, 500, 8)
    lists = [
        backup(),
        parameters([alpha, vault], [copy, VerifyCscd(1), BlockToBlock(1, 0, 1, 0, 0)]),
        parameters([alpha, vault], [copy], list_id=7, usage=0),
        parameters([secret, vault], [copy]),
        parameters([alpha, secret], [copy]),
        parameters([alpha, vault, secret], [copy]),
        parameters([alpha], [BlockToBlock(0, 0, 32, 0, 16), BlockToBlock(0xFFFF, 0, 4, 90, 0)]),
        parameters([cscd("big"), cscd("sealed")], [BlockToBlock(0, 1, 1, 0, 0)]),
        parameters([alpha, Ipv4Cscd(0, bytes((192, 0, 2, 7)))], [copy]),
        parameters([alpha, Ipv4Cscd(0, bytes((192, 0, 2, 9)))], [copy]),
        parameters([alpha, AliasCscd(0, 5)], [copy]),
        parameters([alpha, Ipv6Cscd(0, bytes(16))], [copy]),
    ]
    aliases = pack_change_aliases([Alias(5, "iqn.2026-11.test:target"), Alias(6, "iqn.a", "h.x")])
    return [
        *[b"\0" + entry for entry in lists],
        b"\x11" + lists[0],
        b"\x04" + aliases,
        *[bytes((5, action, 7, 0, 0, 4, 0)) for action in (0, 3, 4)],
        b"\6",
        b"\7\x1c",
    ]


def _cdb(kind: int, data: bytes) -> tuple[bytes, bytes]:
    """CDB and data-out of a case."""
    length = len(data).to_bytes(4, "big")
    if kind < 4:
        return b"\x83" + bytes(9) + length + bytes(2), data
    if kind == 4:
        return b"\xa4\x0b" + bytes(4) + length + bytes(2), data
    if kind == 5:
        data = data.ljust(6, b"\0")
        return b"\x84" + data[:2] + bytes(7) + data[2:6] + bytes(2), b""
    if kind == 6:
        return bytes.fromhex("a30b000000000000ffff0000"), b""
    return b"\x83" + data[:15].ljust(15, b"\0"), data


async def _case(data: bytes) -> bool:
    kind, lun = data[0] & 7, data[0] >> 4 & 3
    cdb, out = _cdb(kind, data[1:])
    task = await TARGET.ended(TARGET.alice.start(cdb, out, lun=lun))
    assert task.status in (Status.GOOD, Status.CHECK_CONDITION)
    assert (task.status == Status.GOOD) == (task.sense is None)
    rig = TARGET.rig
    assert rig.content(SECRET_DEVICE, SECRET_AT, SECRET_BLOCKS) == SECRET_BYTES, "written"
    assert rig.content(SECRET_DEVICE, SEALED_AT, SEALED_BLOCKS) == SEALED_BYTES, "unsealed"
    for device in ("sd1/0", "vault/0", "new/0", "far/0"):
        assert SECRET not in rig.content(device), "read"
    assert SECRET not in rig.content(SECRET_DEVICE, 0, SEALED_AT), "read"
    assert SECRET not in task.data_in
    for controller in rig.controllers.values():
        controller.received.clear()
    return task.status == Status.GOOD


def check(data: bytes) -> bool:
    return LOOP.run_until_complete(_case(data)) if data else False
