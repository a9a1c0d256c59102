"""What a unit says of itself, from units that say little, much, or nonsense."""

from __future__ import annotations

import pytest

from daiko.backend.lu_facts import read_facts, report_luns
from daiko.device.block import Buffer
from daiko.device.error import DeviceError, Refused, Unreachable, Unsupported
from daiko.scsi.block_data import Capacity, pack_capacity_10
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import DeviceType, Opcode, PeripheralQualifier
from daiko.scsi.report import lun_field, pack_report_luns
from daiko.scsi.vpd import (
    BlockLimits,
    Designator,
    pack_device_identification,
    pack_supported_vpd_pages,
    pack_unit_serial_number,
)

NAA = Designator.naa(bytes.fromhex("60014050000000000000000000000001"))


class Unit:
    """Answers from a table; what is not in it is refused like an unknown command."""

    def __init__(self) -> None:
        self.inquiry = StandardInquiry(vendor="ACME", product="DISK", revision="1")
        self.pages: dict[int, bytes] = {
            0x80: pack_unit_serial_number("4711"),
            0x83: pack_device_identification([NAA]),
            0xB0: BlockLimits(max_transfer=64).pack(),
        }
        self.pages[0x00] = pack_supported_vpd_pages([0, *self.pages])
        self.answers: dict[int, bytes | DeviceError] = {
            Opcode.SERVICE_ACTION_IN_16: Capacity(1000, 4096, lbprz=True).pack(),
        }
        self.asked: list[bytes] = []

    async def ask(self, lun: int, cdb: bytes, length: int, *, optional: bool = False) -> Buffer:
        self.asked.append(cdb)
        if cdb[0] == Opcode.INQUIRY:
            answer: bytes | DeviceError | None = (
                self.pages.get(cdb[2]) if cdb[1] & 1 else self.inquiry.pack()
            )
        else:
            answer = self.answers.get(cdb[0])
        if answer is None:
            words = f"no command {cdb[0]:02x}h"
            raise Unsupported(words) if optional else Refused(words, status=2, sense=b"")
        if isinstance(answer, DeviceError):
            raise answer
        return answer[:length]


async def test_everything_said_is_taken() -> None:
    facts = await read_facts(Unit(), 0)
    assert facts.is_disk
    assert facts.capacity == Capacity(1000, 4096, lbprz=True)
    assert (facts.serial, facts.identity, facts.limits.max_transfer) == ("4711", (NAA,), 64)
    assert (facts.third_party, facts.opcodes, facts.has_fua) == (None, None, False)


async def test_pages_that_are_not_listed_are_not_asked_for() -> None:
    unit = Unit()
    unit.pages[0x00] = pack_supported_vpd_pages([0x00, 0x83])
    facts = await read_facts(unit, 0)
    assert (facts.serial, facts.identity) == ("", (NAA,))
    asked = {cdb[2] for cdb in unit.asked if cdb[0] == Opcode.INQUIRY and cdb[1] & 1}
    assert asked == {0x00, 0x83}


async def test_unit_without_pages_is_a_disk_all_the_same() -> None:
    unit = Unit()
    unit.pages.clear()
    facts = await read_facts(unit, 0)
    assert facts.is_disk
    assert facts.identity == ()


@pytest.mark.parametrize(
    "page", [b"", b"\0", b"\0\x83\0\x40short", b"\0\xb0\0\0"], ids=["none", "cut", "short", "other"]
)
async def test_nonsense_in_a_page_counts_as_nothing_said(page: bytes) -> None:
    unit = Unit()
    unit.pages[0x83] = page
    facts = await read_facts(unit, 0)
    assert facts.is_disk
    assert facts.designators == ()


async def test_long_page_is_asked_for_again_in_full() -> None:
    unit = Unit()
    many = [Designator.t10_vendor_id("ACME", f"{number:0100d}") for number in range(5)]
    unit.pages[0x83] = pack_device_identification(many)
    assert (await read_facts(unit, 0)).designators == tuple(many)


async def test_small_unit_that_has_only_read_capacity_10_is_taken() -> None:
    unit = Unit()
    del unit.answers[Opcode.SERVICE_ACTION_IN_16]
    unit.answers[Opcode.READ_CAPACITY_10] = pack_capacity_10(2000, 512)
    assert (await read_facts(unit, 0)).capacity == Capacity(2000, 512)


async def test_large_unit_that_has_only_read_capacity_10_is_an_error() -> None:
    unit = Unit()
    del unit.answers[Opcode.SERVICE_ACTION_IN_16]
    unit.answers[Opcode.READ_CAPACITY_10] = pack_capacity_10(2**40, 512)
    with pytest.raises(Unsupported):
        await read_facts(unit, 0)


@pytest.mark.parametrize(
    "inquiry",
    [
        StandardInquiry(device_type=DeviceType.SEQUENTIAL_ACCESS),
        StandardInquiry(qualifier=PeripheralQualifier.NOT_CAPABLE, device_type=0x1F),
    ],
    ids=["tape", "not there"],
)
async def test_what_is_no_disk_is_asked_nothing_more(inquiry: StandardInquiry) -> None:
    unit = Unit()
    unit.inquiry = inquiry
    facts = await read_facts(unit, 0)
    assert not facts.is_disk
    assert len(unit.asked) == 1


async def test_third_party_page_is_asked_for_only_where_the_bit_says_so() -> None:
    unit = Unit()
    unit.pages[0x00] = pack_supported_vpd_pages([0x00, 0x8F])
    await read_facts(unit, 0)
    assert not [cdb for cdb in unit.asked if cdb[0] == Opcode.INQUIRY and cdb[2] == 0x8F]


async def test_lost_connection_is_no_answer() -> None:
    unit = Unit()
    unit.answers[Opcode.SERVICE_ACTION_IN_16] = Unreachable("gone")
    with pytest.raises(Unreachable):
        await read_facts(unit, 0)


class TestReportLuns:
    async def test_simple_luns_are_given_in_order_and_others_left_out(self) -> None:
        unit = Unit()
        fields = [lun_field(300), lun_field(2), 0xC101 << 48, lun_field(0)]
        unit.answers[Opcode.REPORT_LUNS] = pack_report_luns(fields)
        assert await report_luns(unit) == (0, 2, 300)

    async def test_long_list_is_asked_for_again_in_full(self) -> None:
        unit = Unit()
        unit.answers[Opcode.REPORT_LUNS] = pack_report_luns(map(lun_field, range(5000)))
        assert await report_luns(unit) == tuple(range(5000))

    async def test_list_without_end_is_refused(self) -> None:
        unit = Unit()
        unit.answers[Opcode.REPORT_LUNS] = b"\xff\xff\xff\xf8" + bytes(4092)
        with pytest.raises(MalformedData):
            await report_luns(unit)
