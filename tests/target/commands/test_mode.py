"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.scsi import sbc, spc
from daiko.scsi.mode_page import (
    CachingPage,
    ControlPage,
    InformationalExceptionsPage,
    PageControl,
    pack_mode_parameters,
    parse_mode_sense,
)
from daiko.scsi.opcode import Status
from daiko.target.access import Access
from target.fake import Host, SlowDevice, host_of, unit_of

INVALID_FIELD = (0x5, 0x24, 0x00)
BAD_LIST = (0x5, 0x26, 0x00)
BAD_LENGTH = (0x5, 0x1A, 0x00)
TEN = pytest.mark.parametrize("ten", [False, True], ids=["6", "10"])


def sense(host: Host, ten: bool, **fields: int):  # type: ignore[no-untyped-def]
    layout = spc.ModeSense10 if ten else spc.ModeSense6
    return host.run(layout.pack(allocation_length=255, **fields))


def select(host: Host, ten: bool, *pages: bytes, descriptor: bytes = b"", **fields: int):  # type: ignore[no-untyped-def]
    data = pack_mode_parameters(pages, ten=ten, block_descriptor=descriptor)
    layout = spc.ModeSelect10 if ten else spc.ModeSelect6
    values = {"pf": 1, "parameter_list_length": len(data), **fields}
    return host.run(layout.pack(**values), data)


@TEN
def test_all_pages_come_with_header_and_block_descriptor(ten: bool) -> None:
    data = sense(host_of(unit_of()), ten, page_code=0x3F).data_in
    got = parse_mode_sense(data, ten=ten)
    assert [page.code for page in got.pages] == [0x08, 0x0A, 0x1C]
    assert got.blocks_and_size == (1024, 512)
    assert got.device_specific == 0x10
    header = int.from_bytes(data[:2], "big") + 2 if ten else data[0] + 1
    assert header == len(data)


def test_long_lba_gives_the_long_block_descriptor() -> None:
    data = sense(host_of(unit_of(MemoryDevice(9, 4096))), True, page_code=8, llbaa=1).data_in
    got = parse_mode_sense(data, ten=True)
    assert (len(got.block_descriptor), got.blocks_and_size) == (16, (9, 4096))


@TEN
def test_dbd_leaves_the_block_descriptor_out(ten: bool) -> None:
    data = sense(host_of(unit_of()), ten, page_code=8, dbd=1).data_in
    assert parse_mode_sense(data, ten=ten).block_descriptor == b""


@TEN
@pytest.mark.parametrize(
    ("code", "control", "page"),
    [
        (0x08, PageControl.CURRENT, CachingPage.pack(wce=1)),
        (0x08, PageControl.DEFAULT, CachingPage.pack(wce=1)),
        (0x08, PageControl.CHANGEABLE, CachingPage.pack(wce=1)),
        (0x0A, PageControl.CURRENT, ControlPage.pack(queue_algorithm_modifier=1, tas=1)),
        (0x0A, PageControl.CHANGEABLE, ControlPage.pack(d_sense=1, swp=1)),
        (0x1C, PageControl.CURRENT, InformationalExceptionsPage.pack(dexcpt=1)),
        (0x1C, PageControl.CHANGEABLE, InformationalExceptionsPage.pack()),
    ],
)
def test_page_values(ten: bool, code: int, control: PageControl, page: bytes) -> None:
    data = sense(host_of(unit_of()), ten, page_code=code, pc=control).data_in
    assert [each.data for each in parse_mode_sense(data, ten=ten).pages] == [page]


@TEN
@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        pytest.param({"page_code": 0x08, "pc": 3}, (0x5, 0x39, 0x00), id="saved values"),
        pytest.param({"page_code": 0x01}, INVALID_FIELD, id="no such page"),
        pytest.param({"page_code": 0x00}, INVALID_FIELD, id="vendor page"),
        pytest.param({"page_code": 0x0A, "subpage_code": 1}, INVALID_FIELD, id="no such subpage"),
        pytest.param({"page_code": 0x3F, "subpage_code": 0xFF}, None, id="all subpages"),
    ],
)
def test_mode_sense_refuses_what_there_is_not(
    ten: bool, fields: dict[str, int], condition: tuple[int, int, int] | None
) -> None:
    assert sense(host_of(unit_of()), ten, **fields).condition == condition


def test_mode_sense_is_cut_to_the_allocation_length() -> None:
    task = host_of(unit_of()).run(spc.ModeSense6.pack(page_code=0x3F, allocation_length=5))
    assert len(task.data_in) == 5


@TEN
def test_write_protected_unit_says_so(ten: bool) -> None:
    data = sense(host_of(unit_of(read_only=True)), ten, page_code=8).data_in
    assert parse_mode_sense(data, ten=ten).write_protected


# ---------------------------------------------------------------------- MODE SELECT


@TEN
def test_write_cache_off_makes_every_write_go_through(ten: bool) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    assert select(host, ten, CachingPage.pack(wce=0)).status == Status.GOOD
    host.start(sbc.Write10.pack(transfer_length=1), bytes(512))
    assert device.waiting == ["write fua"]
    assert parse_mode_sense(sense(host, ten, page_code=8).data_in, ten=ten).pages[0].data == (
        CachingPage.pack(wce=0)
    )
    assert select(host, ten, CachingPage.pack(wce=1)).status == Status.GOOD
    host.start(sbc.Write10.pack(transfer_length=1), bytes(512))
    assert device.waiting == ["write fua", "write"]


@TEN
def test_mode_select_of_all_pages_as_they_are_changes_nothing(ten: bool) -> None:
    unit = unit_of()
    host = host_of(unit)
    before = unit.mode
    got = parse_mode_sense(sense(host, ten, page_code=0x3F).data_in, ten=ten)
    task = select(host, ten, *[page.data for page in got.pages], descriptor=got.block_descriptor)
    assert (task.status, unit.mode) == (Status.GOOD, before)


@TEN
def test_software_write_protect_stops_writes_and_can_be_taken_back(ten: bool) -> None:
    host = host_of(unit_of())
    protect = ControlPage.pack(queue_algorithm_modifier=1, tas=1, swp=1)
    assert select(host, ten, protect).status == Status.GOOD
    task = host.run(sbc.Write10.pack(transfer_length=1), bytes(512))
    assert task.condition == (0x7, 0x27, 0x00)
    assert parse_mode_sense(sense(host, ten, page_code=8).data_in, ten=ten).write_protected
    assert select(host, ten, ControlPage.pack(queue_algorithm_modifier=1, tas=1)).status == 0
    assert host.run(sbc.Write10.pack(transfer_length=1), bytes(512)).status == Status.GOOD


def test_descriptor_sense_changes_the_format_of_sense_data() -> None:
    unit = unit_of()
    host = host_of(unit)
    select(host, True, ControlPage.pack(queue_algorithm_modifier=1, tas=1, d_sense=1))
    itl = next(iter(host.nexus.units.values()))
    condition = host.run("ff" + "00" * 15).sense
    assert condition is not None
    assert itl.unit.sense_bytes(condition)[0] == 0x72
    select(host, True, ControlPage.pack(queue_algorithm_modifier=1, tas=1))
    assert itl.unit.sense_bytes(condition)[0] == 0x70


def test_change_is_told_to_the_other_hosts_only_and_only_when_it_is_one() -> None:
    access = Access()
    access.publish({"*": {0: unit_of()}})
    one, two = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    select(one, True, CachingPage.pack(wce=1))
    assert two.run("00" * 6).status == Status.GOOD
    select(one, True, CachingPage.pack(wce=0))
    assert two.run("00" * 6).condition == (0x6, 0x2A, 0x01)
    assert one.run("00" * 6).status == Status.GOOD


def test_logical_unit_reset_brings_the_defaults_back() -> None:
    unit = unit_of()
    host = host_of(unit)
    select(host, True, CachingPage.pack(wce=0))
    assert unit.write_through
    host.manage(5)
    assert not unit.write_through


@TEN
@pytest.mark.parametrize(
    ("pages", "pointer"),
    [
        pytest.param([CachingPage.pack(wce=1, rcd=1)], (2, 0), id="RCD cannot be set"),
        pytest.param([ControlPage.pack(tas=1)], (3, 4), id="QAM cannot be changed"),
        pytest.param([InformationalExceptionsPage.pack(dexcpt=0)], (2, 3), id="DEXCPT"),
        pytest.param([bytes([0x01, 0x0A]) + bytes(10)], (0, 5), id="no such page"),
        pytest.param([bytes([0x08, 0x0A]) + bytes(10)], (1, None), id="wrong page length"),
    ],
)
def test_mode_select_of_what_cannot_change_changes_nothing(
    ten: bool, pages: list[bytes], pointer: tuple[int, int | None]
) -> None:
    unit = unit_of()
    before = unit.mode
    task = select(host_of(unit), ten, CachingPage.pack(wce=0), *pages)
    assert task.condition == BAD_LIST
    assert task.sense is not None
    field = task.sense.field
    assert field is not None
    start = (8 if ten else 4) + 20
    assert (field.in_cdb, field.byte - start, field.bit) == (False, *pointer)
    assert unit.mode == before


@TEN
@pytest.mark.parametrize(
    ("descriptor", "condition"),
    [
        pytest.param("0000000000000200", None, id="blocks 0"),
        pytest.param("0000040000000200", None, id="its own size"),
        pytest.param("0000020000000200", BAD_LIST, id="another capacity"),
        pytest.param("0000040000001000", BAD_LIST, id="another block size"),
    ],
)
def test_mode_select_block_descriptor_may_only_repeat_the_size(
    ten: bool, descriptor: str, condition: tuple[int, int, int] | None
) -> None:
    task = select(host_of(unit_of()), ten, descriptor=bytes.fromhex(descriptor))
    assert task.condition == condition


@TEN
@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        pytest.param({"sp": 1}, INVALID_FIELD, id="saving"),
        pytest.param({"pf": 0}, INVALID_FIELD, id="vendor format"),
        pytest.param({"parameter_list_length": 0}, None, id="no list"),
        pytest.param({"parameter_list_length": 3}, BAD_LENGTH, id="header cut"),
        pytest.param({"parameter_list_length": 20}, BAD_LENGTH, id="page cut"),
        pytest.param({"parameter_list_length": 200}, BAD_LENGTH, id="less data than announced"),
    ],
)
def test_mode_select_cdb_and_lengths(
    ten: bool, fields: dict[str, int], condition: tuple[int, int, int] | None
) -> None:
    unit = unit_of()
    before = unit.mode
    assert select(host_of(unit), ten, CachingPage.pack(wce=0), **fields).condition == condition
    assert unit.mode == before
