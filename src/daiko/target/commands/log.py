"""LOG SENSE and LOG SELECT (SPC-4, 6.7 and 6.8): one row for each log page.

What is counted is counted since the start of the controller or the last reset by a host; nothing
of it is saved, and the pages say so. No counter has a threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daiko.device.block import Buffer
from daiko.scsi import log_page, sense, spc
from daiko.scsi.log_page import (
    ALL_SUBPAGES,
    InformationalExceptions,
    LogPage,
    LogPageCode,
    LogPageControl,
    LogParameter,
    SelfTestResult,
)
from daiko.scsi.opcode import Status
from daiko.scsi.sense import CheckCondition
from daiko.target import self_test
from daiko.target.commands.handler import serves
from daiko.target.event import Event
from daiko.target.thin_provisioning import (
    AVAILABLE,
    USED,
    Resources,
    is_thin,
    resource_counters,
)
from daiko.target.unit_log import SelfTestEntry

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

GOOD = int(Status.GOOD)

PageKey = tuple[int, int]


@dataclass(frozen=True, slots=True)
class LogPageRow:
    """A log page. All columns are required."""

    key: PageKey
    """(page code, subpage code)."""
    is_offered: Callable[[LogicalUnit], bool]
    parameters: Callable[[LogicalUnit], Sequence[LogParameter]]
    """Its cumulative values, in ascending order of the parameter codes."""
    set_counter: Callable[[LogicalUnit, int, int], None] | None
    """(unit, parameter code, value): LOG SELECT may set the counters of the page, and reset them
    to 0. None: the page describes something and cannot be changed."""


def _always(unit: LogicalUnit) -> bool:
    return True


def _non_medium_errors(unit: LogicalUnit) -> Sequence[LogParameter]:
    return (LogParameter.counter(0, unit.log.non_medium_errors),)


def _set_non_medium_errors(unit: LogicalUnit, code: int, value: int) -> None:
    unit.log.non_medium_errors = value


def _block_provisioning(unit: LogicalUnit) -> Sequence[LogParameter]:
    """LBA mapping resources, in threshold sets (SBC-4, 6.4.4)."""
    found = resource_counters(unit) or Resources(0, None)
    shared = _resource(AVAILABLE, found.available, SHARED_WITH_OTHERS)
    if found.used is None:
        return (shared,)
    return (shared, _resource(USED, found.used, THIS_UNIT))


def _resource(code: int, count: int, scope: int) -> LogParameter:
    return LogParameter(code, min(count, 0xFFFFFFFF).to_bytes(4, "big") + bytes((scope, 0, 0, 0)))


THIS_UNIT, SHARED_WITH_OTHERS = 0b01, 0b10
"""SCOPE of a resource count."""


def _self_test_results(unit: LogicalUnit) -> Sequence[LogParameter]:
    test = unit.self_test
    entries: list[SelfTestEntry] = []
    if test is not None and test.code != self_test.DEFAULT:
        entries.append(test.entry())
    entries += unit.log.self_tests or ()
    values = [_self_test_value(entry) for entry in entries[: log_page.SELF_TEST_RESULTS]]
    values += [bytes(SelfTestResult.length)] * (log_page.SELF_TEST_RESULTS - len(values))
    return [LogParameter(code, value) for code, value in enumerate(values, 1)]


def _self_test_value(entry: SelfTestEntry) -> bytes:
    key, asc, ascq = entry.sense
    return SelfTestResult.pack(
        self_test_code=entry.code,
        result=entry.result,
        number=entry.number,
        power_on_hours=entry.hours,
        first_failure=entry.first_failure,
        sense_key=key,
        asc=asc,
        ascq=ascq,
    )


def _informational_exceptions(unit: LogicalUnit) -> Sequence[LogParameter]:
    """None is ever reported (DEXCPT of mode page 1Ch), and there is nothing to be hot."""
    return (LogParameter(0, InformationalExceptions.pack()),)


ROWS: tuple[LogPageRow, ...] = (
    LogPageRow(
        (LogPageCode.NON_MEDIUM_ERROR, 0), _always, _non_medium_errors, _set_non_medium_errors
    ),
    LogPageRow((LogPageCode.LOGICAL_BLOCK_PROVISIONING, 0), is_thin, _block_provisioning, None),
    LogPageRow((LogPageCode.SELF_TEST_RESULTS, 0), _always, _self_test_results, None),
    LogPageRow((LogPageCode.INFORMATIONAL_EXCEPTIONS, 0), _always, _informational_exceptions, None),
)
"""In ascending order; the lists of pages (00h and 00h/FFh) are made from it."""

LISTS: tuple[PageKey, ...] = ((0, 0), (0, ALL_SUBPAGES))


# ---------------------------------------------------------------------- LOG SENSE


@serves("LOG_SENSE")
def log_sense(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """A page with its cumulative or default values."""
    cdb = spc.LogSense.unpack(task.cdb)
    if cdb.sp:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 0))
    key = (cdb.page_code, cdb.subpage_code)
    if key in LISTS:
        if cdb.parameter_pointer:
            raise CheckCondition(sense.invalid_field_in_cdb(5))
        keys = [*LISTS, *(row.key for row in ROWS if row.is_offered(unit))]
        data = log_page.pack_supported_pages(keys, with_subpages=bool(cdb.subpage_code))
    else:
        row = _row(unit, key)
        data = log_page.pack_log_page(*key, _parameters_asked_for(unit, row, cdb))
    itl.finish(task, GOOD, (data[: cdb.allocation_length],))


def _row(unit: LogicalUnit, key: PageKey) -> LogPageRow:
    """Raises CheckCondition for a page that there is not."""
    offered = [row for row in ROWS if row.is_offered(unit)]
    for row in offered:
        if row.key == key:
            return row
    if any(code == key[0] for code, _ in [*LISTS, *(row.key for row in offered)]):
        raise CheckCondition(sense.invalid_field_in_cdb(3))
    raise CheckCondition(sense.invalid_field_in_cdb(2, 5))


def _parameters_asked_for(unit: LogicalUnit, row: LogPageRow, cdb: Any) -> list[LogParameter]:
    """From the parameter pointer on. PC is for counters only (SPC-4, 6.8)."""
    parameters = row.parameters(unit)
    if cdb.parameter_pointer > parameters[-1].code:
        raise CheckCondition(sense.invalid_field_in_cdb(5))
    if any(each.is_counter for each in parameters):
        if cdb.pc in (LogPageControl.THRESHOLD, LogPageControl.DEFAULT_THRESHOLD):
            raise CheckCondition(sense.invalid_field_in_cdb(2, 7))
        if cdb.pc == LogPageControl.DEFAULT_CUMULATIVE:
            parameters = [LogParameter.counter(each.code, 0) for each in parameters]
    return [each for each in parameters if each.code >= cdb.parameter_pointer]


# ---------------------------------------------------------------------- LOG SELECT


@serves("LOG_SELECT")
def log_select(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Reset counters, or set them; all of the list is checked before any of it holds."""
    cdb = spc.LogSelect.unpack(task.cdb)
    if cdb.sp:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 0))
    length = cdb.parameter_list_length
    if length and cdb.pcr:
        raise CheckCondition(sense.invalid_field_in_cdb(1, 1))
    if length and (cdb.page_code or cdb.subpage_code):
        raise CheckCondition(sense.invalid_field_in_cdb(2, 5))
    if not length:
        rows = _rows_to_reset(unit, cdb)
        if cdb.pcr or cdb.pc == LogPageControl.DEFAULT_CUMULATIVE:
            _set(unit, itl, [(row, each.code, 0) for row in rows for each in row.parameters(unit)])
        itl.finish(task, GOOD)
        return
    if cdb.pc != LogPageControl.CUMULATIVE:
        raise CheckCondition(sense.invalid_field_in_cdb(2, 7))

    def received(data: Buffer) -> None:
        if len(data) < length:
            raise CheckCondition(sense.parameter_list_length_error())
        pages = log_page.parse_log_pages(data)
        _set(unit, itl, [each for page in pages for each in _wanted(unit, page)])
        itl.finish(task, GOOD)

    unit.receive(itl, task, length, received)


def _rows_to_reset(unit: LogicalUnit, cdb: Any) -> list[LogPageRow]:
    """The page that the CDB names, or all that can be reset: page 00h means all of them."""
    if not cdb.page_code and not cdb.subpage_code:
        return [row for row in ROWS if row.is_offered(unit) and row.set_counter is not None]
    row = _row(unit, (cdb.page_code, cdb.subpage_code))
    return [row] if row.set_counter is not None else []


def _wanted(unit: LogicalUnit, page: LogPage) -> list[tuple[LogPageRow, int, int]]:
    """What a page of the list wants set. Raises CheckCondition."""
    row = next(
        (row for row in ROWS if row.key == (page.code, page.subpage) and row.is_offered(unit)), None
    )
    if row is None or row.set_counter is None:
        raise CheckCondition(sense.invalid_field_in_parameter_list(page.offset, 5))
    known = {each.code: each for each in row.parameters(unit)}
    found = []
    for offset, parameter in page.parameters:
        like = known.get(parameter.code)
        if like is None:
            raise CheckCondition(sense.invalid_field_in_parameter_list(offset))
        if len(parameter.value) != len(like.value):
            raise CheckCondition(sense.invalid_field_in_parameter_list(offset + 3))
        found.append((row, parameter.code, int.from_bytes(parameter.value, "big")))
    return found


def _set(unit: LogicalUnit, itl: ItlNexus, values: Sequence[tuple[LogPageRow, int, int]]) -> None:
    """Set the counters and tell the others."""
    for row, code, value in values:
        assert row.set_counter is not None
        row.set_counter(unit, code, value)
    if values:
        unit.announce(Event.LOG_PARAMETERS_CHANGED, by=itl)
