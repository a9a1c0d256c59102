"""MODE SENSE and MODE SELECT."""

from __future__ import annotations

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.scsi import sbc, spc
from daiko.scsi.mode_page import (
    CachingPage,
    ControlExtensionPage,
    ControlPage,
    InformationalExceptionsPage,
    PageControl,
    pack_mode_parameters,
    parse_mode_sense,
)
from daiko.scsi.opcode import Status
from daiko.target.access import Access
from daiko.target.event import Event
from daiko.target.kept import NOTHING_KEPT, Kept
from daiko.target.mode_settings import CONTROL, CONTROL_EXTENSION
from target.fake import Host, MemoryKeeper, SlowDevice, host_of, unit_of

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
        (0x0A, PageControl.CURRENT, ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1)),
        (0x0A, PageControl.CHANGEABLE, ControlPage.pack(d_sense=1, ua_intlck_ctrl=3, swp=1, tas=1)),
        (0x0A, PageControl.DEFAULT, ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1)),
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
        pytest.param({"page_code": 0x0A, "subpage_code": 5}, INVALID_FIELD, id="no such subpage"),
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
    protect = ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1, swp=1)
    assert select(host, ten, protect).status == Status.GOOD
    task = host.run(sbc.Write10.pack(transfer_length=1), bytes(512))
    assert task.condition == (0x7, 0x27, 0x00)
    assert parse_mode_sense(sense(host, ten, page_code=8).data_in, ten=ten).write_protected
    assert (
        select(host, ten, ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1)).status == 0
    )
    assert host.run(sbc.Write10.pack(transfer_length=1), bytes(512)).status == Status.GOOD


def test_descriptor_sense_changes_the_format_of_sense_data() -> None:
    unit = unit_of()
    host = host_of(unit)
    select(host, True, ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1, d_sense=1))
    itl = next(iter(host.nexus.units.values()))
    condition = host.run("ff" + "00" * 15).sense
    assert condition is not None
    assert itl.unit.sense_bytes(condition)[0] == 0x72
    select(host, True, ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1))
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
        pytest.param([ControlPage.pack(gltsd=1, tas=1)], (3, 4), id="QAM cannot be changed"),
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


# ---------------------------------------------------------------------- subpages


@TEN
@pytest.mark.parametrize(
    ("code", "subpage", "keys"),
    [
        pytest.param(0x0A, 0x00, [(0x0A, 0)], id="page"),
        pytest.param(0x0A, 0x01, [(0x0A, 1)], id="subpage"),
        pytest.param(0x0A, 0xFF, [(0x0A, 0), (0x0A, 1)], id="page and its subpages"),
        pytest.param(0x08, 0xFF, [(0x08, 0)], id="page without subpages"),
        pytest.param(0x3F, 0x00, [(0x08, 0), (0x0A, 0), (0x1C, 0)], id="all pages"),
        pytest.param(
            0x3F, 0xFF, [(0x08, 0), (0x0A, 0), (0x0A, 1), (0x1C, 0)], id="all pages and subpages"
        ),
    ],
)
def test_pages_and_subpages_that_are_asked_for_come_in_ascending_order(
    ten: bool, code: int, subpage: int, keys: list[tuple[int, int]]
) -> None:
    data = sense(host_of(unit_of()), ten, page_code=code, subpage_code=subpage).data_in
    pages = parse_mode_sense(data, ten=ten).pages
    assert [(page.code, page.subpage) for page in pages] == keys


def test_more_than_mode_sense_6_can_say_is_refused() -> None:
    unit = unit_of()
    unit.mode_pages = unit.mode_pages * 4
    host = host_of(unit)
    assert sense(host, False, page_code=0x3F, subpage_code=0xFF).condition == INVALID_FIELD
    assert sense(host, True, page_code=0x3F, subpage_code=0xFF).status == Status.GOOD


# ---------------------------------------------------------------------- what the bits do


def test_longer_sense_data_than_allowed_carries_sdat_ovfl() -> None:
    unit = unit_of()
    host = host_of(unit)
    settings = unit.mode.with_fields(CONTROL, d_sense=1)
    unit.set_mode(settings.with_fields(CONTROL_EXTENSION, maximum_sense_length=18))
    short = host.run(spc.Inquiry.pack(page_code=0x83, allocation_length=255)).sense_bytes
    assert (len(short), short[4] & 0x80) == (16, 0)
    verify = sbc.Verify10.pack(bytchk=1, transfer_length=1)
    long = host.run(verify, b"\1" + bytes(511)).sense_bytes
    assert (len(long), long[4] & 0x80) == (18, 0x80)


def test_sense_length_too_short_to_say_anything_is_rounded_up() -> None:
    unit = unit_of()
    host = host_of(unit)
    other = Host(host.access, "iqn.a:2")
    page = ControlExtensionPage.pack(tcmos=1, scsip=1, ialuae=1, maximum_sense_length=4)
    assert select(host, True, page).condition == (0x1, 0x37, 0x00)
    assert unit.mode.maximum_sense_length == 18
    assert other.run("00" * 6).condition == (0x6, 0x2A, 0x01)


@pytest.mark.parametrize("value", [1, 3])
def test_ua_intlck_ctrl_that_there_is_not_is_refused(value: int) -> None:
    page = ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1, ua_intlck_ctrl=value)
    task = select(host_of(unit_of()), True, page)
    assert task.condition == BAD_LIST
    assert task.sense.field.byte == 8 + 4
    assert task.sense.field.bit == 5


def test_interlocked_unit_attention_stays_until_request_sense() -> None:
    unit = unit_of()
    host = host_of(unit)
    select(
        host,
        True,
        ControlPage.pack(queue_algorithm_modifier=1, gltsd=1, tas=1, ua_intlck_ctrl=2),
    )
    unit.announce(Event.CAPACITY_CHANGED)
    for _ in range(3):
        assert host.run("00" * 6).condition == (0x6, 0x2A, 0x09)
    data = host.run(spc.RequestSense.pack(allocation_length=252)).data_in
    assert (data[2], data[12], data[13]) == (0x6, 0x2A, 0x09)
    assert host.run("00" * 6).status == Status.GOOD


# ---------------------------------------------------------------------- saved pages


def select_start(host: Host, *pages: bytes, **fields: int):  # type: ignore[no-untyped-def]
    data = pack_mode_parameters(pages, ten=True)
    values = {"pf": 1, "sp": 1, "parameter_list_length": len(data), **fields}
    return host.start(spc.ModeSelect10.pack(**values), data)


def test_saved_page_is_stable_before_the_status_and_holds_after_a_reset_and_a_restart() -> None:
    memory = MemoryKeeper()
    unit = unit_of(keeper=memory)
    host = host_of(unit)
    task = select_start(host, CachingPage.pack(wce=0))
    assert task.answers == 0
    memory.settle()
    assert task.status == Status.GOOD
    select(host, True, CachingPage.pack(wce=1))
    assert unit.mode.write_cache
    host.manage(5)
    assert not unit.mode.write_cache
    again = unit_of(keeper=MemoryKeeper(memory.kept))
    assert again.write_through
    saved = sense(host_of(again), True, page_code=8, pc=PageControl.SAVED).data_in
    assert parse_mode_sense(saved, ten=True).pages[0].data == CachingPage.pack(ps=1, wce=0)


def test_saving_saves_all_pages_also_those_that_were_changed_before() -> None:
    memory = MemoryKeeper()
    unit = unit_of(keeper=memory)
    host = host_of(unit)
    select(host, True, CachingPage.pack(wce=0))
    task = select_start(host, parameter_list_length=0)
    memory.settle()
    assert task.status == Status.GOOD
    assert memory.kept.mode_pages == (CachingPage.pack(wce=0),)


def test_unit_whose_keeper_does_not_outlive_the_process_saves_nothing() -> None:
    host = host_of(unit_of(keeper=MemoryKeeper(is_lasting=False)))
    assert select(host, True, CachingPage.pack(wce=0), sp=1).condition == INVALID_FIELD
    assert sense(host, True, page_code=8, pc=PageControl.SAVED).condition == (0x5, 0x39, 0x00)
    page = parse_mode_sense(sense(host, True, page_code=8).data_in, ten=True).pages[0]
    assert not page.data[0] & 0x80
    assert host.run("a305" + "00" * 4 + "00000040" + "0000").condition == INVALID_FIELD


def test_failure_to_save_is_reported() -> None:
    memory = MemoryKeeper()
    host = host_of(unit_of(keeper=memory))
    task = select_start(host, CachingPage.pack(wce=0))
    memory.settle(is_kept=False)
    assert task.condition == (0x4, 0x44, 0x00)
    assert memory.kept == NOTHING_KEPT


@TEN
@pytest.mark.parametrize("control", PageControl)
def test_pages_say_that_they_can_be_saved(ten: bool, control: PageControl) -> None:
    host = host_of(unit_of(keeper=MemoryKeeper()))
    data = sense(host, ten, page_code=0x3F, subpage_code=0xFF, pc=control).data_in
    assert all(page.data[0] & 0x80 for page in parse_mode_sense(data, ten=ten).pages)


def test_page_that_another_release_saved_in_another_form_keeps_its_default() -> None:
    odd = (bytes((0x08, 0x02, 0, 0)), bytes((0x19, 0x02, 0, 0)), ControlPage.pack(swp=1))
    unit = unit_of(keeper=MemoryKeeper(Kept(mode_pages=odd)))
    assert unit.mode.write_cache
    assert unit.is_write_protected
