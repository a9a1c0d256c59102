"""Identifying information and the timestamp."""

from __future__ import annotations

import time

import pytest

from daiko.scsi import spc
from daiko.scsi.opcode import Status
from daiko.target.kept import Kept
from daiko.target.mode_settings import CONTROL_EXTENSION
from target.fake import FakeTask, Host, MemoryKeeper, host_of, unit_of

INVALID_FIELD = (0x5, 0x24, 0x00)
BAD_LIST = (0x5, 0x26, 0x00)
BAD_LENGTH = (0x5, 0x1A, 0x00)
BINARY, TEXT, SUPPORTED = 0x00, 0x02, 0x7F


def report(host: Host, kind: int, room: int = 4096) -> FakeTask:
    return host.run(
        spc.ReportIdentifyingInformation.pack(information_type=kind, allocation_length=room)
    )


def begin_set(host: Host, kind: int, data: bytes, **fields: int) -> FakeTask:
    values = {"information_type": kind, "parameter_list_length": len(data), **fields}
    return host.start(spc.SetIdentifyingInformation.pack(**values), data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [(BINARY, b"\0\xff" * 256), (TEXT, "Größe\0".encode()), (TEXT, b"x" * 255 + b"\0")],
)
def test_information_is_stable_before_the_status_and_others_are_told(
    kind: int, data: bytes
) -> None:
    keeper = MemoryKeeper()
    host = host_of(unit_of(keeper=keeper))
    other = Host(host.access, "iqn.a:2")
    task = begin_set(host, kind, data)
    assert task.answers == 0
    keeper.settle()
    assert task.status == Status.GOOD
    assert report(host, kind).data_in == len(data).to_bytes(4, "big") + data
    assert other.run(bytes(6)).condition == (0x6, 0x3F, 0x05)
    again = host_of(unit_of(keeper=MemoryKeeper(keeper.kept)))
    assert report(again, kind).data_in[4:] == data
    assert report(again, kind, room=6).data_in == len(data).to_bytes(4, "big") + data[:2]


@pytest.mark.parametrize("kind", [BINARY, TEXT])
def test_nothing_is_set_by_an_empty_list(kind: int) -> None:
    keeper = MemoryKeeper(Kept(identifying_information=b"a", identifying_text=b"b"))
    host = host_of(unit_of(keeper=keeper))
    task = begin_set(host, kind, b"")
    keeper.settle()
    assert task.status == Status.GOOD
    assert report(host, kind).data_in == bytes(4)


def test_setting_one_keeps_the_others() -> None:
    keeper = MemoryKeeper(Kept(mode_pages=(), identifying_text=b"b"))
    begin_set(host_of(unit_of(keeper=keeper)), BINARY, b"a")
    keeper.settle()
    assert keeper.kept == Kept(mode_pages=(), identifying_information=b"a", identifying_text=b"b")


def test_types_that_there_are() -> None:
    data = report(host_of(unit_of(keeper=MemoryKeeper())), SUPPORTED).data_in
    assert data.hex(" ", 4) == "00000008 00000200 04000100"


@pytest.mark.parametrize(
    ("kind", "data", "fields", "condition"),
    [
        pytest.param(1, b"", {}, INVALID_FIELD, id="no such type"),
        pytest.param(SUPPORTED, b"", {}, INVALID_FIELD, id="type that can only be read"),
        pytest.param(BINARY, bytes(513), {}, INVALID_FIELD, id="more than there is room for"),
        pytest.param(TEXT, bytes(257), {}, INVALID_FIELD, id="longer text than allowed"),
        pytest.param(TEXT, b"x", {}, BAD_LIST, id="text without its NUL"),
        pytest.param(TEXT, b"x\0y\0", {}, BAD_LIST, id="NUL inside the text"),
        pytest.param(TEXT, b"\xff\0", {}, BAD_LIST, id="no UTF-8"),
        pytest.param(BINARY, b"x", {"parameter_list_length": 2}, BAD_LENGTH, id="less data"),
    ],
)
def test_information_that_is_refused_changes_nothing(
    kind: int, data: bytes, fields: dict[str, int], condition: tuple[int, int, int]
) -> None:
    keeper = MemoryKeeper(Kept(identifying_information=b"a"))
    host = host_of(unit_of(keeper=keeper))
    assert begin_set(host, kind, data, **fields).condition == condition
    assert report(host, BINARY).data_in[4:] == b"a"
    assert keeper.kept == Kept(identifying_information=b"a")


def test_failure_to_keep_is_reported_and_told_to_nobody() -> None:
    keeper = MemoryKeeper()
    host = host_of(unit_of(keeper=keeper))
    other = Host(host.access, "iqn.a:2")
    task = begin_set(host, BINARY, b"a")
    keeper.settle(is_kept=False)
    assert task.condition == (0x4, 0x44, 0x00)
    assert other.run(bytes(6)).status == Status.GOOD


def test_unit_that_keeps_nothing_has_no_such_commands() -> None:
    host = host_of(unit_of())
    assert report(host, BINARY).condition == INVALID_FIELD
    assert begin_set(host, BINARY, b"").condition == INVALID_FIELD


# ---------------------------------------------------------------------- timestamp


def timestamp(host: Host) -> tuple[int, int]:
    """(origin, milliseconds)"""
    data = host.run(spc.ReportTimestamp.pack(allocation_length=12)).data_in
    assert data[:2].hex() == "000a"
    return data[2] & 7, int.from_bytes(data[4:10], "big")


def set_timestamp(host: Host, milliseconds: int, size: int = 12) -> FakeTask:
    data = (bytes(4) + milliseconds.to_bytes(6, "big") + bytes(20))[:size]
    return host.run(spc.SetTimestamp.pack(parameter_list_length=size), data)


def test_timestamp_is_the_clock_of_the_machine() -> None:
    before = time.time_ns() // 1_000_000
    origin, found = timestamp(host_of(unit_of()))
    assert origin == 0b011
    assert before <= found <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("size", [12, 20])
def test_timestamp_that_was_set_runs_on_and_others_are_told(size: int) -> None:
    host = host_of(unit_of())
    other = Host(host.access, "iqn.a:2")
    before = time.time_ns() // 1_000_000
    assert set_timestamp(host, 5_000_000, size).status == Status.GOOD
    origin, found = timestamp(host)
    elapsed = time.time_ns() // 1_000_000 - before
    assert origin == 0b010
    assert 5_000_000 <= found <= 5_000_000 + elapsed
    assert other.run(bytes(6)).condition == (0x6, 0x2A, 0x10)


def test_empty_list_leaves_the_timestamp() -> None:
    host = host_of(unit_of())
    assert host.run(spc.SetTimestamp.pack()).status == Status.GOOD
    assert timestamp(host)[0] == 0b011


def test_timestamp_that_is_refused() -> None:
    unit = unit_of()
    host = host_of(unit)
    assert set_timestamp(host, 0xF1 << 40).condition == BAD_LIST
    assert set_timestamp(host, 0, 11).condition == BAD_LENGTH
    assert set_timestamp(host, 0xF0FFFFFFFFFF).status == Status.GOOD
    unit.set_mode(unit.mode.with_fields(CONTROL_EXTENSION, scsip=0))
    assert set_timestamp(host, 1).condition == INVALID_FIELD
