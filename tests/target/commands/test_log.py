"""LOG SENSE and LOG SELECT."""

from __future__ import annotations

import pytest

from daiko.device.error import DeviceError, MediumFailure, Unreachable
from daiko.scsi import sbc, spc
from daiko.scsi.log_page import LogParameter, pack_log_page, parse_log_pages
from daiko.scsi.opcode import Status
from daiko.target.commands.log import LISTS, ROWS, LogPageRow
from target.fake import FakeTask, Host, SlowDevice, ThinMemory, host_of, unit_of

INVALID_FIELD = (0x5, 0x24, 0x00)
BAD_LIST = (0x5, 0x26, 0x00)
BAD_LENGTH = (0x5, 0x1A, 0x00)
CUMULATIVE, DEFAULT = 1, 3
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.key[0]:02X}")


def ask(host: Host, page: int, **fields: int) -> FakeTask:
    values = {"pc": CUMULATIVE, "allocation_length": 4096, **fields}
    return host.run(spc.LogSense.pack(page_code=page, **values))


def select(host: Host, data: bytes = b"", **fields: int) -> FakeTask:
    values = {"pc": CUMULATIVE, "parameter_list_length": len(data), **fields}
    return host.run(spc.LogSelect.pack(**values), data)


def parameters(task: FakeTask) -> dict[int, bytes]:
    (page,) = parse_log_pages(task.data_in)
    return {each.code: each.value for _, each in page.parameters}


def failed_once(error: DeviceError) -> Host:
    """A host one of whose commands has failed with this."""
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(sbc.Read10.pack(transfer_length=1))
    device.fail(error)
    return host


# ---------------------------------------------------------------------- which pages


def test_listed_pages_are_exactly_those_that_are_answered() -> None:
    host = host_of(unit_of(ThinMemory()))
    listed = ask(host, 0).data_in[4:]
    assert list(listed) == [code for code in range(0x3F) if ask(host, code).status == Status.GOOD]
    pairs = ask(host, 0, subpage_code=0xFF).data_in[4:]
    assert [tuple(pairs[at : at + 2]) for at in range(0, len(pairs), 2)] == sorted(
        [*LISTS, *(row.key for row in ROWS)]
    )


def test_rows_are_in_ascending_order() -> None:
    assert [row.key for row in ROWS] == sorted({row.key for row in ROWS})


@EACH_ROW
def test_page_says_its_code_and_that_nothing_of_it_is_saved(row: LogPageRow) -> None:
    data = ask(host_of(unit_of(ThinMemory())), row.key[0]).data_in
    assert data[0] == 0x80 | row.key[0]
    (page,) = parse_log_pages(data)
    codes = [each.code for _, each in page.parameters]
    assert codes == sorted(codes)
    assert all(data[offset + 2] & 0x20 for offset, _ in page.parameters)


@EACH_ROW
def test_parameter_pointer_begins_the_page_later(row: LogPageRow) -> None:
    host = host_of(unit_of(ThinMemory()))
    whole = parameters(ask(host, row.key[0]))
    last = max(whole)
    assert parameters(ask(host, row.key[0], parameter_pointer=last)) == {last: whole[last]}
    assert ask(host, row.key[0], parameter_pointer=last + 1).condition == INVALID_FIELD


@pytest.mark.parametrize(
    ("page", "fields", "pointer"),
    [
        pytest.param(0x3E, {}, (2, 5), id="no such page"),
        pytest.param(0x06, {"subpage_code": 1}, (3, None), id="no such subpage"),
        pytest.param(0x06, {"sp": 1}, (1, 0), id="saving"),
        pytest.param(0x06, {"pc": 0}, (2, 7), id="threshold values of a counter"),
        pytest.param(0x06, {"pc": 2}, (2, 7), id="default thresholds of a counter"),
        pytest.param(0x00, {"parameter_pointer": 1}, (5, None), id="pointer into a list of pages"),
    ],
)
def test_log_sense_refuses_what_there_is_not(
    page: int, fields: dict[str, int], pointer: tuple[int, int | None]
) -> None:
    task = ask(host_of(unit_of(ThinMemory())), page, **fields)
    assert task.condition == INVALID_FIELD
    assert task.sense is not None
    assert task.sense.field is not None
    assert (task.sense.field.byte, task.sense.field.bit) == pointer


@pytest.mark.parametrize("control", range(4))
def test_page_that_counts_nothing_is_the_same_for_every_page_control(control: int) -> None:
    host = host_of(unit_of(ThinMemory()))
    assert ask(host, 0x2F, pc=control).data_in == ask(host, 0x2F).data_in


def test_log_sense_is_cut_to_the_allocation_length() -> None:
    data = ask(host_of(unit_of(ThinMemory())), 0x10, allocation_length=6).data_in
    assert len(data) == 6
    assert int.from_bytes(data[2:4], "big") == 20 * 20


# ---------------------------------------------------------------------- what they say


def test_failure_that_is_not_the_mediums_is_counted() -> None:
    assert parameters(ask(failed_once(Unreachable("gone")), 6)) == {0: b"\0\0\0\1"}
    medium = MediumFailure("", writing=False, lba=3)
    assert parameters(ask(failed_once(medium), 6)) == {0: bytes(4)}


def test_default_cumulative_values_are_zero() -> None:
    assert parameters(ask(failed_once(Unreachable("")), 6, pc=DEFAULT)) == {0: bytes(4)}


def test_informational_exceptions_say_none_and_no_temperature() -> None:
    assert parameters(ask(host_of(unit_of(ThinMemory())), 0x2F)) == {0: bytes.fromhex("0000ff00")}


def test_self_test_results_are_twenty_and_empty_before_the_first_test() -> None:
    found = parameters(ask(host_of(unit_of(ThinMemory())), 0x10))
    assert found == {code: bytes(16) for code in range(1, 21)}


# ---------------------------------------------------------------------- LOG SELECT


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"pcr": 1}, id="PCR, all pages"),
        pytest.param({"pcr": 1, "page_code": 6}, id="PCR, the page"),
        pytest.param({"pc": DEFAULT}, id="default values, all pages"),
        pytest.param({"pc": DEFAULT, "page_code": 6}, id="default values, the page"),
    ],
)
def test_counters_are_reset_and_the_other_hosts_are_told(fields: dict[str, int]) -> None:
    host = failed_once(Unreachable(""))
    other = Host(host.access, "iqn.a:2")
    assert select(host, **fields).status == Status.GOOD
    assert parameters(ask(host, 6)) == {0: bytes(4)}
    assert other.run(bytes(6)).condition == (0x6, 0x2A, 0x02)


@pytest.mark.parametrize(
    "fields",
    [{}, {"pc": 0}, {"pc": 2}, {"pcr": 1, "page_code": 0x10}, {"pcr": 1, "page_code": 0x2F}],
)
def test_select_that_resets_no_counter_changes_nothing(fields: dict[str, int]) -> None:
    host = failed_once(Unreachable(""))
    other = Host(host.access, "iqn.a:2")
    assert select(host, **fields).status == Status.GOOD
    assert parameters(ask(host, 6)) == {0: b"\0\0\0\1"}
    assert other.run(bytes(6)).status == Status.GOOD


def test_counter_is_set_to_a_value() -> None:
    host = host_of(unit_of(ThinMemory()))
    page = pack_log_page(6, 0, [LogParameter.counter(0, 1000)])
    assert select(host, page).status == Status.GOOD
    assert parameters(ask(host, 6)) == {0: (1000).to_bytes(4, "big")}


GOOD_PAGE = pack_log_page(6, 0, [LogParameter.counter(0, 9)])


@pytest.mark.parametrize(
    ("data", "condition", "byte"),
    [
        pytest.param(pack_log_page(0x10, 0, []), BAD_LIST, 12, id="page that cannot be changed"),
        pytest.param(pack_log_page(0x3E, 0, []), BAD_LIST, 12, id="no such page"),
        pytest.param(
            pack_log_page(6, 0, [LogParameter.counter(1, 9)]), BAD_LIST, 16, id="no such parameter"
        ),
        pytest.param(
            pack_log_page(6, 0, [LogParameter(0, bytes(2))]), BAD_LIST, 19, id="another length"
        ),
        pytest.param(b"\x06\0\0", BAD_LENGTH, None, id="cut short"),
    ],
)
def test_list_with_a_fault_changes_nothing(
    data: bytes, condition: tuple[int, int, int], byte: int | None
) -> None:
    host = host_of(unit_of(ThinMemory()))
    task = select(host, GOOD_PAGE + data)
    assert task.condition == condition
    assert task.sense is not None
    assert byte is None or (task.sense.field is not None and task.sense.field.byte == byte)
    assert parameters(ask(host, 6)) == {0: bytes(4)}


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        pytest.param({"sp": 1}, INVALID_FIELD, id="saving"),
        pytest.param({"pcr": 1}, INVALID_FIELD, id="reset with a list"),
        pytest.param({"page_code": 6}, INVALID_FIELD, id="page code with a list"),
        pytest.param({"pc": 0}, INVALID_FIELD, id="thresholds"),
        pytest.param({"parameter_list_length": 200}, BAD_LENGTH, id="less than announced"),
    ],
)
def test_log_select_refuses(fields: dict[str, int], condition: tuple[int, int, int]) -> None:
    host = host_of(unit_of(ThinMemory()))
    assert select(host, GOOD_PAGE, **fields).condition == condition
    assert parameters(ask(host, 6)) == {0: bytes(4)}
