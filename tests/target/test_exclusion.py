"""Commands that have blocks for themselves, against all that else may happen to these blocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.backend.memory import MemoryDevice
from daiko.device.block import BlockDevice, Buffer, Done
from daiko.device.error import MediumFailure
from daiko.device.layer.delay import Delay
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi import sbc
from daiko.scsi.block_data import LbaRange, pack_unmap
from daiko.scsi.opcode import Status
from daiko.target.logical_unit import LogicalUnit
from daiko.virtual_lu.virtual_lu import VirtualLu
from target.fake import FakeTask, Host, SlowDevice, host_of, unit_of

SIZE = 512
A, B = DeviceId("sd1", 0), DeviceId("sd2", 0)
EDGE = 15
"""Two blocks from here lie in two extents."""


def compare_and_write(lba: int, old: bytes, new: bytes) -> tuple[bytes, bytes]:
    cdb = sbc.CompareAndWrite.pack(lba=lba, transfer_length=len(old) // SIZE)
    return cdb, old + new


def write(lba: int, data: bytes) -> tuple[bytes, bytes]:
    return sbc.Write16.pack(lba=lba, transfer_length=len(data) // SIZE), data


def orwrite(lba: int, data: bytes) -> tuple[bytes, bytes]:
    return sbc.Orwrite16.pack(lba=lba, transfer_length=len(data) // SIZE), data


def write_same(lba: int, data: bytes) -> tuple[bytes, bytes]:
    return sbc.WriteSame16.pack(lba=lba, transfer_length=len(data) // SIZE), data[:SIZE]


def unmap(lba: int, data: bytes) -> tuple[bytes, bytes]:
    body = pack_unmap([LbaRange(lba, len(data) // SIZE)])
    return sbc.Unmap.pack(parameter_list_length=len(body)), body


def write_and_verify(lba: int, data: bytes) -> tuple[bytes, bytes]:
    return sbc.WriteAndVerify16.pack(lba=lba, transfer_length=len(data) // SIZE), data


ONE, TWO, THREE = (bytes([value]) * 2 * SIZE for value in (0x11, 0x22, 0x40))
ZERO = bytes(2 * SIZE)


class Rig:
    """A host, and a unit over devices whose completions wait to be released."""

    def __init__(self) -> None:
        self.delays = {A: Delay(MemoryDevice(64)), B: Delay(MemoryDevice(64))}
        extents = [Extent(0, 16, A, 20), Extent(16, 30, B, 0)]
        self.unit: LogicalUnit = unit_of(VirtualLu(MappingTable(extents), self.delays, SIZE))
        self.host: Host = host_of(self.unit)

    def settle(self) -> None:
        while any(delay.release() for delay in self.delays.values()):
            pass

    def contents(self) -> bytes:
        task = self.host.start(sbc.Read10.pack(lba=EDGE, transfer_length=2))
        self.settle()
        return task.data_in


CHANGES = {
    "WRITE": write,
    "WRITE SAME": write_same,
    "UNMAP": unmap,
    "ORWRITE": orwrite,
    "WRITE AND VERIFY": write_and_verify,
}
EACH_CHANGE = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@EACH_CHANGE
def test_change_under_way_is_waited_for(
    change: Callable[[int, bytes], tuple[bytes, bytes]],
) -> None:
    rig = Rig()
    first = rig.host.start(*change(EDGE, ONE))
    under_way = sum(delay.held for delay in rig.delays.values())
    second = rig.host.start(*compare_and_write(EDGE, ONE, TWO))
    assert sum(delay.held for delay in rig.delays.values()) == under_way  # it reads nothing yet
    rig.settle()
    assert first.status == Status.GOOD
    if change is unmap:
        assert second.condition == (0xE, 0x1D, 0x00)
        assert rig.contents() == ZERO
    else:
        assert second.status == Status.GOOD
        assert rig.contents() == TWO


@EACH_CHANGE
def test_change_that_comes_later_is_kept_back(
    change: Callable[[int, bytes], tuple[bytes, bytes]],
) -> None:
    rig = Rig()
    first = rig.host.start(*compare_and_write(EDGE, ZERO, ONE))
    second = rig.host.start(*change(EDGE, TWO))
    elsewhere = rig.host.start(*write(0, ONE))
    for delay in rig.delays.values():
        delay.release()
    assert elsewhere.status == Status.GOOD  # other blocks wait for nothing
    assert second.answers == 0
    rig.settle()
    assert (first.status, second.status) == (Status.GOOD, Status.GOOD)
    expected = {unmap: ZERO, orwrite: bytes([0x33]) * 2 * SIZE}
    assert rig.contents() == expected.get(change, TWO)


def test_write_of_a_copy_keeps_a_compare_and_write_back_and_is_kept_back_by_it() -> None:
    rig = Rig()
    leave: list[Callable[[], None]] = []
    rig.unit.alone.enter(EDGE + 1, 10, leave.append)
    first = rig.host.start(*compare_and_write(EDGE, ZERO, ONE))
    assert sum(delay.held for delay in rig.delays.values()) == 0
    rig.unit.alone.enter(EDGE, 1, leave.append)
    assert len(leave) == 1  # it stands in line behind the command
    rig.unit.alone.enter(0, 4, leave.append)
    assert len(leave) == 2  # other blocks
    leave[0]()
    while not first.answers:
        assert sum(delay.release() for delay in rig.delays.values())
    assert first.status == Status.GOOD
    assert len(leave) == 3


def test_task_whose_data_has_not_come_is_not_waited_for_but_waits() -> None:
    """Else a host that never sends its data could hold up all others."""
    rig = Rig()
    slow = rig.host.start(*write(EDGE, TWO), slow_data=True)
    first = rig.host.start(*compare_and_write(EDGE, ZERO, ONE))
    assert sum(delay.held for delay in rig.delays.values()) == 2  # it reads
    slow.deliver()
    rig.settle()
    assert (first.status, slow.status) == (Status.GOOD, Status.GOOD)
    assert rig.contents() == TWO


def test_command_of_several_requests_under_way_is_not_kept_back_by_who_waits_for_it() -> None:
    device = SlowDevice(has_atomics=False)
    host = host_of(unit_of(device))
    ranges = [LbaRange(0, 1), LbaRange(5, 1)]
    body = pack_unmap(ranges)
    first = host.start(sbc.Unmap.pack(parameter_list_length=len(body)), body)
    second = host.start(*compare_and_write(5, bytes(SIZE), ONE[:SIZE]))
    assert device.waiting == ["unmap"]
    device.step()
    assert device.waiting == ["unmap"]  # its second range, though the other command wants it
    device.step()
    assert first.status == Status.GOOD
    assert device.waiting == ["read"]
    while device.waiting:
        device.step()
    assert second.status == Status.GOOD


def test_command_of_several_requests_that_began_with_the_guard_is_not_waited_for_as_a_whole() -> (
    None
):
    device = SlowDevice(has_atomics=False)
    host = host_of(unit_of(device))
    first = host.start(*compare_and_write(9, bytes(SIZE), ONE[:SIZE]))
    verified = host.start(sbc.WriteAndVerify10.pack(lba=5, transfer_length=1), TWO[:SIZE])
    device.step()
    device.step()  # the read of the first, then the write (FUA) of the second …
    assert device.waiting == ["write", "read"]
    device.step()
    assert first.status == Status.GOOD  # … and the guard is gone
    second = host.start(*compare_and_write(5, TWO[:SIZE], ONE[:SIZE]))
    while device.waiting:
        device.step()
    assert (verified.status, second.status) == (Status.GOOD, Status.GOOD)


def test_failure_lets_those_who_wait_go_on() -> None:
    device = SlowDevice(has_atomics=False)
    host = host_of(unit_of(device))
    first = host.start(*compare_and_write(5, bytes(SIZE), ONE[:SIZE]))
    second = host.start(*write(5, TWO[:SIZE]))
    device.fail(MediumFailure("bad", writing=False))
    assert first.condition == (0x3, 0x11, 0x00)
    assert device.waiting == ["write"]
    device.step()
    assert second.status == Status.GOOD


def test_lost_session_s_write_under_way_is_waited_for() -> None:
    device = SlowDevice(has_atomics=False)
    unit = unit_of(device)
    host = host_of(unit)
    other = Host(host.access, "iqn.2026-11.test:other", 2)
    host.start(*write(5, TWO[:SIZE]))
    host.access.nexus_lost(host.nexus)
    task = other.start(*compare_and_write(5, TWO[:SIZE], ONE[:SIZE]))
    assert device.waiting == ["write"]
    device.step()
    assert device.waiting == ["read"]
    while device.waiting:
        device.step()
    assert task.status == Status.GOOD


def test_device_is_the_bare_one_again_when_nothing_is_alone() -> None:
    device = SlowDevice(has_atomics=False)
    unit = unit_of(device)
    host = host_of(unit)
    other = SlowDevice(has_atomics=False)
    host.start(*compare_and_write(5, bytes(SIZE), ONE[:SIZE]))
    assert unit.device is not device
    unit.replace_device(other)
    late = host.start(*write(5, TWO[:SIZE]))
    assert (device.waiting, other.waiting) == (["read"], [])
    while device.waiting:
        device.step()
    assert unit.device is other
    assert other.waiting == ["write"]
    other.step()
    assert late.status == Status.GOOD
    assert not unit.task_set.is_watched


def test_operation_that_the_device_has_is_left_to_it() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(*compare_and_write(5, bytes(SIZE), ONE[:SIZE]))
    host.start(*orwrite(5, ONE[:SIZE]))
    assert device.waiting == ["compare and write", "or write"]


class Copies:
    """The writes of a copy, as the copy manager makes them: past the commands, but entered."""

    def __init__(self, unit: LogicalUnit) -> None:
        self.unit = unit

    def write(self, lba: int, data: bytes, done: Done) -> None:
        def begin(leave: Callable[[], None]) -> None:
            def finished(error: object) -> None:
                leave()
                done(None)

            self.unit.bare_device.write(lba, data, finished)

        self.unit.alone.enter(lba, len(data) // SIZE, begin)


Request = tuple[str, bytes, bytes, bool]
"""(what, compared, data, done)."""


@given(st.data())
def test_all_changes_in_flight_together_are_as_one_after_another(data: st.DataObject) -> None:
    rig = Rig()
    copies = Copies(rig.unit)
    values = [ZERO, ONE, TWO]
    begun: list[tuple[str, bytes, bytes, list[bool], FakeTask | None]] = []
    for _ in range(data.draw(st.integers(2, 4))):
        what = data.draw(st.sampled_from(["compare", "or", "same", "unmap", "write", "copy"]))
        old, new = data.draw(st.sampled_from(values)), data.draw(st.sampled_from(values))
        outcome: list[bool] = []
        task = None
        if what == "copy":
            copies.write(EDGE, new, lambda _, outcome=outcome: outcome.append(True))
        else:
            command = {
                "compare": lambda old=old, new=new: compare_and_write(EDGE, old, new),
                "or": lambda new=new: orwrite(EDGE, new),
                "same": lambda new=new: write_same(EDGE, new),
                "unmap": lambda new=new: unmap(EDGE, new),
                "write": lambda new=new: write(EDGE, new),
            }[what]
            task = rig.host.start(*command())
        begun.append((what, old, new, outcome, task))
        for delay in rig.delays.values():
            delay.release(data.draw(st.integers(0, 2)))
    order = list(rig.delays.values())
    while any(delay.release(1) for delay in data.draw(st.permutations(order))):
        pass
    requests: list[Request] = []
    for what, old, new, outcome, task in begun:
        assert task is None or task.answers == 1
        done = bool(outcome) if task is None else task.status == Status.GOOD
        requests.append((what, old, new, done))
    found = rig.contents()
    assert any(leads_to(each, found) for each in permutations(requests))
    assert rig.unit.device is rig.unit.bare_device


def leads_to(order: tuple[Request, ...], after: bytes) -> bool:
    """Would the requests in this order have had these outcomes, and left these blocks?"""
    values = [ZERO[:SIZE], ZERO[:SIZE]]
    for what, old, new, done in order:
        if what == "compare":
            if ((values[0] + values[1]) == old) != done:
                return False
            if done:
                values = [new[:SIZE], new[SIZE:]]
        elif not done:
            return False
        elif what == "or":
            values = [bytes(x | y for x, y in zip(v, new, strict=False)) for v in values]
        elif what == "unmap":
            values = [bytes(SIZE), bytes(SIZE)]
        else:
            values = [new[:SIZE], new[SIZE:]]
    return values[0] + values[1] == after


def test_guard_passes_nothing_to_do() -> None:
    unit = unit_of(SlowDevice(has_atomics=False))
    held: list[Done] = []

    def operation(device: BlockDevice, finished: Done) -> None:
        held.append(finished)

    unit.alone.run_alone(None, 0, 8, operation, lambda error: None)
    outcomes: list[object] = []
    unit.device.write(0, b"", outcomes.append)
    unit.device.unmap(3, 0, outcomes.append)

    def read_done(error: object, data: Buffer) -> None:
        outcomes.append(error)

    unit.device.read(0, 1, read_done)  # reads go on
    assert outcomes == [None, None]
    held[0](None)
