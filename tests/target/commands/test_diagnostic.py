"""Self-tests, diagnostic pages, buffers."""

from __future__ import annotations

import pytest

from daiko.device.error import MediumFailure, Unreachable
from daiko.iscsi.bhs import TaskManagementFunction
from daiko.scsi import sbc, spc
from daiko.scsi.log_page import SelfTestResult, parse_log_pages
from daiko.scsi.opcode import Status
from daiko.scsi.sense import parse_sense
from target.fake import FakeTask, Host, SlowDevice, host_of, unit_of

INVALID_FIELD = (0x5, 0x24, 0x00)
BAD_LIST = (0x5, 0x26, 0x00)
BAD_LENGTH = (0x5, 0x1A, 0x00)
FAILED = (0x4, 0x3E, 0x03)
IN_PROGRESS = (0x2, 0x04, 0x09)
BACKGROUND, ABORT, FOREGROUND = 1, 4, 5
TEST_UNIT_READY = bytes(6)


def diagnose(host: Host, **fields: int) -> FakeTask:
    return host.start(spc.SendDiagnostic.pack(**fields))


def results(host: Host) -> list[tuple[int, int]]:
    """(self-test code, result) of the tests in page 10h, the newest first."""
    data = host.run(spc.LogSense.pack(pc=1, page_code=0x10, allocation_length=4096)).data_in
    (page,) = parse_log_pages(data)
    values = [SelfTestResult.unpack(each.value) for _, each in page.parameters]
    return [(each.self_test_code, each.result) for each in values if any(each)]


def newest(host: Host):  # type: ignore[no-untyped-def]
    data = host.run(spc.LogSense.pack(pc=1, page_code=0x10, allocation_length=4096)).data_in
    (page,) = parse_log_pages(data)
    return SelfTestResult.unpack(page.parameters[0][1].value)


def requested(host: Host) -> tuple[int, int, int, int | None]:
    found = parse_sense(host.run(spc.RequestSense.pack(allocation_length=252)).data_in)
    return found.key, found.asc, found.ascq, found.progress


# ---------------------------------------------------------------------- self-test


@pytest.mark.parametrize(
    "fields", [{"selftest": 1}, {"self_test_code": FOREGROUND}], ids=["default", "foreground"]
)
def test_self_test_reads_both_ends_and_flushes_before_the_status(fields: dict[str, int]) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = diagnose(host, **fields)
    done = []
    while device.waiting:
        assert task.answers == 0
        done += device.waiting
        device.step()
    assert done == ["read", "read", "flush"]
    assert task.status == Status.GOOD
    assert results(host) == ([] if "selftest" in fields else [(FOREGROUND, 0)])


def test_background_test_has_its_status_at_once_and_tells_its_progress() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    assert diagnose(host, self_test_code=BACKGROUND).status == Status.GOOD
    assert requested(host) == (*IN_PROGRESS, 0)
    device.step()
    assert requested(host) == (*IN_PROGRESS, (1 << 16) // 3)
    assert results(host) == [(BACKGROUND, 0xF)]
    assert host.run(TEST_UNIT_READY).status == Status.GOOD, "others go on meanwhile"
    device.step()
    device.step()
    assert requested(host) == (0, 0, 0, None)
    assert results(host) == [(BACKGROUND, 0)]


def test_foreground_test_refuses_other_commands_meanwhile() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    other = Host(host.access, "iqn.a:2")
    task = diagnose(host, self_test_code=FOREGROUND)
    assert other.run(TEST_UNIT_READY).condition == IN_PROGRESS
    assert other.run(sbc.Read10.pack(transfer_length=1)).condition == IN_PROGRESS
    assert other.run(spc.Inquiry.pack(allocation_length=96)).status == Status.GOOD
    assert requested(other)[:3] == IN_PROGRESS
    for _ in range(3):
        device.step()
    assert task.status == Status.GOOD
    assert other.run(TEST_UNIT_READY).status == Status.GOOD


@pytest.mark.parametrize(
    ("steps", "error", "result", "number", "lba", "sense"),
    [
        (0, Unreachable("gone"), 5, 0, 0, (0x2, 0x08, 0x00)),
        (1, MediumFailure("", writing=False, lba=1023), 6, 0, 1023, (0x3, 0x11, 0x00)),
        (2, Unreachable("gone"), 7, 3, (1 << 64) - 1, (0x2, 0x08, 0x00)),
    ],
    ids=["first block", "last block", "flush"],
)
@pytest.mark.parametrize("code", [BACKGROUND, FOREGROUND])
def test_failed_test_is_reported_and_noted(
    code: int,
    steps: int,
    error: Unreachable,
    result: int,
    number: int,
    lba: int,
    sense: tuple[int, int, int],
) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = diagnose(host, self_test_code=code)
    for _ in range(steps):
        device.step()
    device.fail(error)
    assert task.condition == (FAILED if code == FOREGROUND else None)
    found = newest(host)
    assert (found.self_test_code, found.result, found.number) == (code, result, number)
    assert found.first_failure == lba
    assert (found.sense_key, found.asc, found.ascq) == sense
    assert not device.waiting


def test_background_test_is_aborted_by_command() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    diagnose(host, self_test_code=BACKGROUND)
    assert diagnose(host, self_test_code=ABORT).status == Status.GOOD
    assert results(host) == [(BACKGROUND, 1)]
    device.step()
    assert not device.waiting, "it goes no further"
    assert results(host) == [(BACKGROUND, 1)]


@pytest.mark.parametrize("code", [BACKGROUND, FOREGROUND])
def test_reset_ends_a_test(code: int) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    diagnose(host, self_test_code=code)
    response = host.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    device.step()
    assert not device.waiting
    assert host.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x03)
    assert results(host) == [(code, 2)]
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    assert response == [0]


def test_second_test_waits_for_the_end_of_the_first() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    diagnose(host, self_test_code=BACKGROUND)
    assert diagnose(host, selftest=1).condition == IN_PROGRESS


def test_twenty_results_are_kept() -> None:
    host = host_of(unit_of())
    for _ in range(25):
        diagnose(host, self_test_code=BACKGROUND)
    assert results(host) == [(BACKGROUND, 0)] * 20


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        pytest.param({"self_test_code": 2}, (1, 7), id="extended, background"),
        pytest.param({"self_test_code": 6}, (1, 7), id="extended, foreground"),
        pytest.param({"self_test_code": 3}, (1, 7), id="reserved"),
        pytest.param({"self_test_code": ABORT}, (1, 7), id="nothing to abort"),
        pytest.param({"self_test_code": 1, "selftest": 1}, (1, 7), id="two kinds of test"),
        pytest.param({"self_test_code": 1, "pf": 1}, (1, 4), id="test with PF"),
        pytest.param({"selftest": 1, "parameter_list_length": 4}, (3, None), id="test with a list"),
    ],
)
def test_send_diagnostic_refuses(fields: dict[str, int], pointer: tuple[int, int | None]) -> None:
    task = diagnose(host_of(unit_of()), **fields)
    assert task.condition == INVALID_FIELD
    assert task.sense is not None
    assert task.sense.field is not None
    assert (task.sense.field.byte, task.sense.field.bit) == pointer


# ---------------------------------------------------------------------- diagnostic pages


@pytest.mark.parametrize(
    ("data", "fields", "condition"),
    [
        pytest.param("", {}, None, id="nothing"),
        pytest.param("00000000", {"pf": 1}, None, id="list of pages"),
        pytest.param("00000000", {}, INVALID_FIELD, id="vendor format"),
        pytest.param("40000000", {"pf": 1}, BAD_LIST, id="no such page"),
        pytest.param("00000001 00", {"pf": 1}, BAD_LIST, id="page with a length"),
        pytest.param("0000", {"pf": 1}, BAD_LENGTH, id="cut short"),
        pytest.param("00000000 00", {"pf": 1}, BAD_LENGTH, id="more than the page"),
        pytest.param("0000", {"pf": 1, "parameter_list_length": 4}, BAD_LENGTH, id="less data"),
    ],
)
def test_diagnostic_page(
    data: str, fields: dict[str, int], condition: tuple[int, int, int] | None
) -> None:
    sent = bytes.fromhex(data)
    values = {"parameter_list_length": len(sent), **fields}
    task = host_of(unit_of()).run(spc.SendDiagnostic.pack(**values), sent)
    assert task.condition == condition


@pytest.mark.parametrize("pcv", [0, 1])
def test_list_of_diagnostic_pages(pcv: int) -> None:
    host = host_of(unit_of())
    cdb = spc.ReceiveDiagnosticResults.pack(pcv=pcv, allocation_length=64)
    assert host.run(cdb).data_in.hex() == "0000000100"
    other = spc.ReceiveDiagnosticResults.pack(pcv=1, page_code=0x40, allocation_length=64)
    assert host.run(other).condition == INVALID_FIELD


# ---------------------------------------------------------------------- buffers

DATA, DESCRIPTOR, ECHO, ECHO_DESCRIPTOR = 0x02, 0x03, 0x0A, 0x0B
TEN_OR_SIXTEEN = pytest.mark.parametrize(
    "layout", [spc.ReadBuffer10, spc.ReadBuffer16], ids=["10", "16"]
)


def write(host: Host, mode: int, data: bytes, **fields: int) -> FakeTask:
    values = {"mode": mode, "parameter_list_length": len(data), **fields}
    return host.run(spc.WriteBuffer.pack(**values), data)


def read(host: Host, mode: int, layout=spc.ReadBuffer10, **fields: int) -> FakeTask:  # type: ignore[no-untyped-def]
    return host.run(layout.pack(mode=mode, **{"allocation_length": 1 << 17, **fields}))


@TEN_OR_SIXTEEN
def test_data_buffer_holds_what_any_host_wrote(layout) -> None:  # type: ignore[no-untyped-def]
    host = host_of(unit_of())
    other = Host(host.access, "iqn.a:2")
    assert read(host, DATA, layout).data_in == bytes(64 << 10)
    assert write(host, DATA, b"abc", buffer_offset=10).status == Status.GOOD
    assert read(other, DATA, layout, buffer_offset=9, allocation_length=5).data_in == b"\0abc\0"
    assert read(other, DATA, layout, buffer_offset=(64 << 10) - 2).data_in == bytes(2)
    assert read(other, DATA, layout, buffer_offset=64 << 10).data_in == b""


@TEN_OR_SIXTEEN
def test_descriptors(layout) -> None:  # type: ignore[no-untyped-def]
    host = host_of(unit_of())
    assert read(host, DESCRIPTOR, layout).data_in.hex() == "00010000"
    assert read(host, DESCRIPTOR, layout, buffer_id=1).data_in.hex() == "00000000"
    assert read(host, ECHO_DESCRIPTOR, layout).data_in.hex() == "01001000"


@TEN_OR_SIXTEEN
def test_each_host_reads_back_its_own_echo(layout) -> None:  # type: ignore[no-untyped-def]
    host = host_of(unit_of())
    other = Host(host.access, "iqn.a:2")
    write(host, ECHO, b"mine")
    write(other, ECHO, b"theirs")
    assert read(host, ECHO, layout).data_in == b"mine"
    assert read(other, ECHO, layout).data_in == b"theirs"
    assert read(host, ECHO, layout, allocation_length=2).data_in == b"mi"


def test_echo_that_was_not_written_is_out_of_sequence() -> None:
    host = host_of(unit_of())
    assert read(host, ECHO).condition == (0x5, 0x2C, 0x00)
    write(host, ECHO, b"x")
    host.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    host.run(TEST_UNIT_READY)
    assert read(host, ECHO).condition == (0x5, 0x2C, 0x00)


@TEN_OR_SIXTEEN
@pytest.mark.parametrize(
    ("fields", "byte"),
    [
        ({"mode": 0x00}, 1),
        ({"mode": 0x1C}, 1),
        ({"mode": DATA, "buffer_id": 1}, None),
        ({"mode": DATA, "buffer_offset": (64 << 10) + 1}, None),
    ],
    ids=["header and data", "error history", "no such buffer", "offset behind the end"],
)
def test_read_buffer_refuses(layout, fields: dict[str, int], byte: int | None) -> None:  # type: ignore[no-untyped-def]
    task = host_of(unit_of()).run(layout.pack(allocation_length=4, **fields))
    assert task.condition == INVALID_FIELD
    name = next(key for key in ("buffer_offset", "buffer_id", "mode") if key in fields)
    assert task.sense is not None
    assert task.sense.field is not None
    assert task.sense.field.byte == next(f.byte for f in layout.fields if f.name == name)


MICROCODE = [0x04, 0x05, 0x06, 0x07, 0x0D, 0x0E, 0x0F]


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        *[pytest.param({"mode": mode}, 4, id=f"microcode {mode:02X}") for mode in MICROCODE],
        pytest.param({"mode": 0x00}, 4, id="header and data"),
        pytest.param({"mode": DATA, "buffer_id": 1}, 4, id="no such buffer"),
        pytest.param({"mode": DATA, "buffer_offset": (64 << 10) - 3}, 4, id="over the end"),
        pytest.param({"mode": DATA, "buffer_offset": (64 << 10) + 1}, 0, id="behind the end"),
        pytest.param({"mode": ECHO}, 4097, id="more than an echo buffer"),
    ],
)
def test_write_buffer_refuses(fields: dict[str, int], size: int) -> None:
    task = write(host_of(unit_of()), data=bytes(size), **fields)
    assert task.condition == INVALID_FIELD
    assert task.fetched is None
