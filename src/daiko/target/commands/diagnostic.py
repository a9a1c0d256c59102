"""SEND DIAGNOSTIC, RECEIVE DIAGNOSTIC RESULTS, READ BUFFER and WRITE BUFFER (SPC-4, clause 6).

Self-tests are true tests (`target/self_test.py`). Of diagnostic pages there is the list of them.
The data buffer is the unit's and belongs to all hosts; each host has an echo buffer of its own, so
that none overwrites another's (EBOS). Microcode is not for hosts to load.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from daiko.device.block import Buffer
from daiko.scsi import sense, spc
from daiko.scsi.log_page import SupportedDiagnosticPages
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sense import CheckCondition
from daiko.target import self_test
from daiko.target.bar import PORT_STATES, answer_to_barred
from daiko.target.commands.handler import serves

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

# ---------------------------------------------------------------------- diagnostics


@serves("SEND_DIAGNOSTIC")
def send_diagnostic(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """A self-test, the end of one, or a diagnostic page."""
    cdb = spc.SendDiagnostic.unpack(task.cdb)
    code = cdb.self_test_code
    if cdb.selftest and code:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 7))
    if not cdb.selftest and not code:
        _diagnostic_page(unit, itl, task, cdb)
        return
    if cdb.parameter_list_length:
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    if cdb.pf and code:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
    running = unit.self_test
    if code == self_test.ABORT_BACKGROUND:
        if running is None or not running.in_background:
            raise CheckCondition(sense.invalid_field_in_cdb(1, 7))
        running.abort(self_test.ABORTED_BY_COMMAND)
        itl.finish(task, GOOD)
        return
    if code not in (self_test.DEFAULT, self_test.BACKGROUND_SHORT, self_test.FOREGROUND_SHORT):
        raise CheckCondition(sense.invalid_field_in_cdb(1, 7))
    if running is not None:
        raise CheckCondition(sense.self_test_in_progress(running.progress))
    if code == self_test.BACKGROUND_SHORT:
        itl.finish(task, GOOD)
        self_test.SelfTest(unit, code).begin()
        return

    def ended(has_passed: bool) -> None:
        if has_passed:
            itl.finish(task, GOOD)
        else:
            itl.refuse(task, sense.failed_self_test())

    self_test.SelfTest(unit, code, ended).begin()


def _diagnostic_page(unit: LogicalUnit, itl: ItlNexus, task: Task, cdb: Any) -> None:
    """The one page that there is has nothing to set: it asks for the list of pages."""
    length = cdb.parameter_list_length
    if not length:
        itl.finish(task, GOOD)
        return
    if not cdb.pf:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))

    def received(data: Buffer) -> None:
        if len(data) < length or length < PAGE_HEADER:
            raise CheckCondition(sense.parameter_list_length_error())
        if data[0]:
            raise CheckCondition(sense.invalid_field_in_parameter_list(0))
        if any(data[2:4]):
            raise CheckCondition(sense.invalid_field_in_parameter_list(2))
        if length > PAGE_HEADER:
            raise CheckCondition(sense.parameter_list_length_error())
        itl.finish(task, GOOD)

    unit.receive(itl, task, length, received)


PAGE_HEADER = 4
"""Bytes before the parameters of a diagnostic page."""


@serves("RECEIVE_DIAGNOSTIC_RESULTS")
def receive_diagnostic_results(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Page 00h: by its code, or as the page that the last SEND DIAGNOSTIC can only have asked
    for."""
    cdb = spc.ReceiveDiagnosticResults.unpack(task.cdb)
    if cdb.page_code:
        raise CheckCondition(sense.invalid_field_in_cdb(2))
    data = SupportedDiagnosticPages.pack()
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


# ---------------------------------------------------------------------- buffers


class Mode(IntEnum):
    """MODE of READ BUFFER and WRITE BUFFER; all others load microcode or read error history."""

    DATA = 0x02
    DESCRIPTOR = 0x03
    ECHO = 0x0A
    ECHO_DESCRIPTOR = 0x0B


DATA_CAPACITY = 64 << 10
"""Bytes of the data buffer, BUFFER ID 0. It takes memory once a host has written to it."""
ECHO_CAPACITY = 4096
"""Bytes of an echo buffer, the most that there may be (SPC-4, 6.18.9)."""
EBOS = 1
"""A host reads from the echo buffer what it wrote itself."""


@serves("READ_BUFFER_10", "READ_BUFFER_16")
def read_buffer(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """The data buffer, the host's echo buffer, or what there is to say of them."""
    is_ten = task.cdb[0] == Opcode.READ_BUFFER_10
    cdb = (spc.ReadBuffer10 if is_ten else spc.ReadBuffer16).unpack(task.cdb)
    offset_byte, id_byte = (3, 2) if is_ten else (2, 14)
    if cdb.mode in (Mode.ECHO, Mode.ECHO_DESCRIPTOR):
        data = _read_echo(itl, cdb.mode)
    elif cdb.mode == Mode.DESCRIPTOR:
        _refuse_where_port_is_barred(itl)
        capacity = DATA_CAPACITY if cdb.buffer_id == 0 else 0
        data = b"\0" + capacity.to_bytes(3, "big")
    elif cdb.mode == Mode.DATA:
        _refuse_where_port_is_barred(itl)
        if cdb.buffer_id:
            raise CheckCondition(sense.invalid_field_in_cdb(id_byte))
        if cdb.buffer_offset > DATA_CAPACITY:
            raise CheckCondition(sense.invalid_field_in_cdb(offset_byte))
        data = _data_buffer(unit)[cdb.buffer_offset :]
    else:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


def _read_echo(itl: ItlNexus, mode: int) -> bytes:
    if mode == Mode.ECHO_DESCRIPTOR:
        return bytes((EBOS, 0)) + ECHO_CAPACITY.to_bytes(2, "big")
    if itl.echo is None:
        raise CheckCondition(sense.command_sequence_error())
    return itl.echo


def _data_buffer(unit: LogicalUnit) -> bytes:
    return bytes(DATA_CAPACITY) if unit.data_buffer is None else bytes(unit.data_buffer)


def _refuse_where_port_is_barred(itl: ItlNexus) -> None:
    """The row lets all modes through in every state of a target port, for the echo buffer's sake;
    the others need an active one (SPC-4, 5.16.2)."""
    bars = itl.bars & PORT_STATES
    if bars:
        _, condition = answer_to_barred(bars)
        assert isinstance(condition, sense.Sense)
        raise CheckCondition(condition)


@serves("WRITE_BUFFER")
def write_buffer(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Into the data buffer or into the host's echo buffer."""
    cdb = spc.WriteBuffer.unpack(task.cdb)
    length, at = cdb.parameter_list_length, cdb.buffer_offset
    if cdb.mode == Mode.ECHO:
        if length > ECHO_CAPACITY:
            raise CheckCondition(sense.invalid_field_in_cdb(6))
    elif cdb.mode == Mode.DATA:
        _refuse_where_port_is_barred(itl)
        if cdb.buffer_id:
            raise CheckCondition(sense.invalid_field_in_cdb(2))
        if at > DATA_CAPACITY:
            raise CheckCondition(sense.invalid_field_in_cdb(3))
        if at + length > DATA_CAPACITY:
            raise CheckCondition(sense.invalid_field_in_cdb(6))
    else:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 4))

    def received(data: Buffer) -> None:
        if cdb.mode == Mode.ECHO:
            itl.echo = bytes(data)
        elif data:
            if unit.data_buffer is None:
                unit.data_buffer = bytearray(DATA_CAPACITY)
            unit.data_buffer[at : at + len(data)] = data
        itl.finish(task, GOOD)

    unit.receive(itl, task, length, received)
