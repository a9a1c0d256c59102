"""Parameter lists that no well-meaning host sends, each with the exact answer.

Every row also shows that nothing was written anywhere, that no job was begun, and that no second
controller heard of it. What a list is refused for before it is looked at as a copy is ILLEGAL
REQUEST; what a segment fails for is COPY ABORTED with the segment's number (SPC-4, 6.4.4).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from copy_target import CopyTarget, backup, cscd, naa_of, parameters
from daiko.scsi.alias import Alias, pack_change_aliases
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import AliasCscd, IdentificationCscd, Ipv4Cscd, Ipv6Cscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.sense import FieldPointer, ForwardedSense, lba_out_of_range, write_protected
from daiko.scsi.vpd import Designator
from daiko.state.sqlite import SqliteStore

ILLEGAL, ABORTED = 0x5, 0xA
ALPHA, VAULT = cscd("alpha"), cscd("vault")
COPY = BlockToBlock(0, 1, 16, 0, 0)
GOOD_LIST = backup()

CSCD_0, CSCD_1, SEGMENT_0 = 16, 48, 80
"""Where they begin in a list of two CSCDs."""


@dataclass(frozen=True)
class Row:
    """A list and the answer to it."""

    id: str
    data: bytes
    key: int
    asc: int
    ascq: int = 0
    segment: int | None = None
    field: int | None = None
    """Byte of the parameter list that the pointer names; None: no pointer."""
    bit: int | None = None
    segment_relative: bool = False
    source: ForwardedSense | None = None
    destination: ForwardedSense | None = None
    length: int | None = None
    """PARAMETER LIST LENGTH, where it is not that of the data."""


def _bytes(at: int, *values: int, data: bytes = GOOD_LIST) -> bytes:
    """The good list with these bytes from `at` on."""
    return data[:at] + bytes(values) + data[at + len(values) :]


def _copy(*segments: BlockToBlock | VerifyCscd) -> bytes:
    return parameters([ALPHA, VAULT], segments)


def _refusal(blocks: int) -> ForwardedSense:
    return ForwardedSense(Status.CHECK_CONDITION, lba_out_of_range(blocks).fixed())


ALPHA_END, VAULT_END = _refusal(912), _refusal(1024)
SEALED = ForwardedSense(Status.CHECK_CONDITION, write_protected().fixed())
UNKNOWN = IdentificationCscd(Designator.naa(naa_of("nowhere")))
SECRET = cscd("secret")
REAL = IdentificationCscd(Designator.naa(b"\x60sd1".ljust(16, b"\0")))

ROWS = [
    # Lengths
    Row("one-byte", b"\0", ILLEGAL, 0x1A),
    Row("header-cut-short", GOOD_LIST[:15], ILLEGAL, 0x1A),
    Row("header-only-of-a-longer-list", GOOD_LIST[:16], ILLEGAL, 0x1A),
    Row("cscd-cut-short", GOOD_LIST[:47], ILLEGAL, 0x1A),
    Row("segment-cut-short", GOOD_LIST[:-1], ILLEGAL, 0x1A),
    Row("fewer-bytes-than-announced", GOOD_LIST[:60], ILLEGAL, 0x1A, length=len(GOOD_LIST)),
    Row("list-of-16-mib", GOOD_LIST, ILLEGAL, 0x1A, length=1 << 24),
    Row("list-of-4-gib", GOOD_LIST, ILLEGAL, 0x1A, length=0xFFFFFFFF),
    Row("cscd-list-length-odd", _bytes(2, 0, 63), ILLEGAL, 0x1A),
    Row("cscd-list-length-largest", _bytes(2, 0xFF, 0xE0), ILLEGAL, 0x1A),
    Row("segment-list-length-largest", _bytes(8, 0xFF, 0xFF, 0xFF, 0xFF), ILLEGAL, 0x1A),
    Row("inline-length-largest", _bytes(12, 0xFF, 0xFF, 0xFF, 0xFF), ILLEGAL, 0x1A),
    Row("lengths-that-wrap-around", _bytes(8, 0xFF, 0xFF, 0xFF, 0xB0), ILLEGAL, 0x1A),
    Row("descriptors-above-the-limit", parameters([ALPHA] * 65, [COPY] * 65), ILLEGAL, 0x1A),
    # Counts
    Row("cscds-too-many", parameters([ALPHA] * 65, [COPY]), ILLEGAL, 0x26, 0x06, field=2),
    Row("segments-too-many", parameters([ALPHA], [COPY] * 65), ILLEGAL, 0x26, 0x08, field=8),
    Row(
        "inline-data",
        ExtendedCopy(0, 3, (ALPHA, VAULT), (COPY,), inline=b"label").pack(),
        ILLEGAL,
        0x26,
        0x0B,
        field=12,
    ),
    # List identifiers
    Row("usage-reserved", _bytes(1, 0b01 << 3), ILLEGAL, 0x26, field=1, bit=4),
    Row("usage-none-with-an-identifier", _bytes(0, 1), ILLEGAL, 0x26, field=0),
    # CSCD descriptors
    Row("cscd-type-unknown", _bytes(CSCD_1, 0xE0), ILLEGAL, 0x26, 0x07, field=CSCD_1),
    Row("cscd-type-rod-token", _bytes(CSCD_0, 0xFE), ILLEGAL, 0x26, 0x07, field=CSCD_0),
    Row(
        "cscd-lu-id-type-proxy",
        _bytes(49, 0x40, data=parameters([ALPHA, Ipv4Cscd(0, bytes(4))], [COPY])),
        ILLEGAL,
        0x26,
        field=49,
        bit=7,
    ),
    Row("cscd-of-a-target-port", _bytes(21, 0x13), ILLEGAL, 0x26, field=21, bit=5),
    Row("designator-of-21-bytes", _bytes(23, 21), ILLEGAL, 0x26, field=23),
    Row("designator-of-255-bytes", _bytes(23, 255), ILLEGAL, 0x26, field=23),
    Row("designator-empty", _bytes(23, 0), ILLEGAL, 0x26, field=23),
    Row("tape-without-block-length", _bytes(17, 1, data=_bytes(44, 1, 0, 0, 0)),
        ILLEGAL, 0x26, field=44),
    Row("block-length-not-the-units", parameters([cscd("alpha", block_length=520), VAULT], [COPY]),
        ILLEGAL, 0x26, field=CSCD_0 + 29),
    Row("ipv6-cut-off-its-extension",
        parameters([ALPHA, Ipv6Cscd(0, bytes(16))], [COPY]).replace(b"\xff", b"\0", 1),
        ILLEGAL, 0x26, field=CSCD_1 + 32),
    Row("ipv4-with-udp", parameters([ALPHA, Ipv4Cscd(0, bytes(4), protocol=17)], [COPY]),
        ILLEGAL, 0x26, field=CSCD_1 + 26),
    # Segment descriptors
    Row("segment-type-unknown", _bytes(SEGMENT_0, 0xBE), ILLEGAL, 0x26, 0x09, field=SEGMENT_0),
    Row("segment-type-of-tapes", _bytes(SEGMENT_0, 0x00), ILLEGAL, 0x26, 0x09, field=SEGMENT_0),
    Row("segment-length-short", _bytes(SEGMENT_0 + 2, 0, 0x17), ILLEGAL, 0x26, field=82),
    Row("segment-length-zero", _bytes(SEGMENT_0 + 2, 0, 0), ILLEGAL, 0x26, field=82),
    Row("segment-length-largest", _bytes(SEGMENT_0 + 2, 0xFF, 0xFF), ILLEGAL, 0x26, field=82),
    Row("cscd-id-reserved", _copy(replace(COPY, source=0x0800)), ILLEGAL, 0x26, field=84),
    Row("cscd-id-of-a-rod-token", _copy(replace(COPY, destination=0xF800)),
        ILLEGAL, 0x26, field=86),
    # CSCDs that mean nothing
    Row("cscd-id-beyond-the-list", _copy(replace(COPY, destination=2)), ABORTED, 0x0D, 0x02, 0),
    Row("cscd-id-largest", _copy(replace(COPY, source=0x07FF)), ABORTED, 0x0D, 0x02, 0),
    Row("cscd-id-of-the-null-device", _copy(replace(COPY, source=0xC000)), ABORTED, 0x0D, 0x02, 0),
    Row("cscd-id-into-the-middle-of-a-descriptor",
        parameters([ALPHA, Ipv6Cscd(0, bytes(16))], [replace(COPY, destination=2)]),
        ABORTED, 0x0D, 0x02, 0),
    Row("no-cscd-at-all", parameters([], [COPY]), ABORTED, 0x0D, 0x02, 0),
    Row("cscd-null", parameters([cscd("alpha", nul=True), VAULT], [COPY]),
        ABORTED, 0x0D, 0x02, 0, CSCD_0),
    Row("cscd-of-another-device-type", parameters([ALPHA, cscd("vault", device_type=3)], [COPY]),
        ABORTED, 0x0D, 0x03, 0, CSCD_1),
    Row("unit-that-does-not-exist", parameters([ALPHA, UNKNOWN], [COPY]),
        ABORTED, 0x0D, 0x02, 0, CSCD_1),
    Row("unit-of-another-host-as-source",
        parameters([SECRET, VAULT], [COPY]), ABORTED, 0x0D, 0x02, 0, CSCD_0),
    Row("unit-of-another-host-as-destination",
        parameters([ALPHA, SECRET], [COPY]), ABORTED, 0x0D, 0x02, 0, CSCD_1),
    Row("unit-of-another-host-verified",
        parameters([SECRET], [VerifyCscd(0, test_unit_ready=True)]),
        ABORTED, 0x0D, 0x02, 0, CSCD_0),
    Row("real-unit-behind-the-virtual-one",
        parameters([REAL, VAULT], [COPY]),
        ABORTED, 0x0D, 0x02, 0, CSCD_0),
    Row("alias-unknown", parameters([ALPHA, AliasCscd(0, 99)], [COPY]),
        ABORTED, 0x0D, 0x02, 0, CSCD_1),
    Row("alias-of-this-target-with-a-lun-of-another-host",
        parameters([ALPHA, AliasCscd(9 << 48, 7)], [COPY]), ABORTED, 0x0D, 0x02, 0, CSCD_1),
    Row("alias-of-a-machine-that-is-not-allowed",
        parameters([ALPHA, AliasCscd(0, 8)], [COPY]), ILLEGAL, 0x26, 0x15, field=CSCD_1),
    Row("address-that-is-not-allowed",
        parameters([ALPHA, Ipv4Cscd(0, bytes((127, 0, 0, 1)))], [COPY]),
        ILLEGAL, 0x26, 0x15, field=CSCD_1),
    # Ranges
    Row("source-beyond-the-end", backup(16, 900, 0), ABORTED, 0x0D, 0x02, 0, CSCD_0,
        source=ALPHA_END),
    Row("destination-beyond-the-end", backup(16, 0, 1010), ABORTED, 0x0D, 0x02, 0, CSCD_1,
        destination=VAULT_END),
    Row("source-lba-largest", backup(1, (1 << 64) - 1, 0), ABORTED, 0x0D, 0x02, 0, CSCD_0,
        source=ALPHA_END),
    Row("destination-lba-largest", backup(0xFFFF, 0, (1 << 64) - 1), ABORTED, 0x0D, 0x02, 0,
        CSCD_0, source=ALPHA_END),
    Row("nothing-from-behind-the-end", backup(0, 913, 0), ABORTED, 0x0D, 0x02, 0, CSCD_0,
        source=ALPHA_END),
    Row("last-segment-beyond-the-end", _copy(COPY, COPY, replace(COPY, destination_lba=1020)),
        ABORTED, 0x0D, 0x02, 2, CSCD_1, destination=VAULT_END),
    Row("destination-write-protected", parameters([ALPHA, cscd("sealed")], [COPY]),
        ABORTED, 0x0D, 0x01, 0, CSCD_1, destination=SEALED),
    # Loops: source and destination in one unit
    Row("onto-itself", parameters([ALPHA], [BlockToBlock(0, 0, 16, 5, 5)]),
        ABORTED, 0x26, 0x0C, 0, 20, segment_relative=True),
    Row("overlap-upwards", parameters([ALPHA], [BlockToBlock(0, 0, 16, 0, 15)]),
        ABORTED, 0x26, 0x0C, 0, 20, segment_relative=True),
    Row("overlap-downwards", parameters([ALPHA], [BlockToBlock(0, 0, 16, 15, 0)]),
        ABORTED, 0x26, 0x0C, 0, 20, segment_relative=True),
    Row("overlap-under-two-descriptors", parameters([ALPHA, ALPHA], [BlockToBlock(0, 1, 16, 0, 8)]),
        ABORTED, 0x26, 0x0C, 0, 20, segment_relative=True),
    Row("overlap-by-the-receiving-unit",
        parameters([ALPHA], [BlockToBlock(0, 0xFFFF, 16, 0, 8)]),
        ABORTED, 0x26, 0x0C, 0, 20, segment_relative=True),
    Row("overlap-in-a-later-segment",
        parameters([ALPHA, VAULT], [COPY, BlockToBlock(0, 0, 16, 500, 505)]),
        ABORTED, 0x26, 0x0C, 1, 20, segment_relative=True),
    # Left-over bytes
    Row("inexact-to-larger-blocks", parameters([ALPHA, cscd("big")], [BlockToBlock(0, 1, 7, 0, 0)]),
        ABORTED, 0x26, 0x0A, 0),
    Row("inexact-with-pad",
        parameters([cscd("alpha", pad=True), cscd("big")], [BlockToBlock(0, 1, 7, 0, 0)]),
        ABORTED, 0x26, 0x0A, 0),
    Row("inexact-with-cat",
        parameters([ALPHA, cscd("big")],
                   [BlockToBlock(0, 1, 7, 0, 0, cat=True), BlockToBlock(0, 1, 1, 7, 0)]),
        ABORTED, 0x26, 0x0A, 0),
]  # fmt: skip


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[CopyTarget]:
    store = SqliteStore.open(tmp_path / "store")
    target = await CopyTarget.start(store)
    yield target
    await target.stop()
    await store.close()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
async def test_hostile_parameter_list_is_answered_exactly_and_nothing_is_written(
    target: CopyTarget, row: Row
) -> None:
    aliases = pack_change_aliases(
        [Alias(7, "iqn.2026-11.test:target"), Alias(8, "iqn.2026-01.test:far", "192.0.2.7")]
    )
    cdb = bytes((0xA4, 0x0B, 0, 0, 0, 0)) + len(aliases).to_bytes(4, "big") + bytes(2)
    assert target.alice.run(cdb, aliases).status == Status.GOOD
    before = target.contents()
    task = await target.send(row.data, length=row.length)
    assert task.status == Status.CHECK_CONDITION
    sense = task.sense
    assert sense is not None
    assert (sense.key, sense.asc, sense.ascq) == (row.key, row.asc, row.ascq)
    pointer = None
    if row.field is not None:
        pointer = FieldPointer(row.field, row.bit, segment_relative=row.segment_relative)
    assert sense.field == pointer
    assert sense.segment == row.segment
    assert (sense.source, sense.destination) == (row.source, row.destination)
    assert sense.information is None, "no residual: nothing was written"
    assert target.contents() == before
    assert target.manager.jobs() == ()
    assert all(not controller.received for controller in target.rig.controllers.values())
    assert target.connections.opened == []


async def test_after_all_of_them_a_good_list_is_still_carried_out(target: CopyTarget) -> None:
    for row in ROWS:
        await target.send(row.data, length=row.length)
    expected = target.rig.content("sd1/0", 0, 16)
    assert (await target.send(GOOD_LIST)).status == Status.GOOD
    assert target.rig.content("vault/0", 0, 16) == expected
