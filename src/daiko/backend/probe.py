"""Measures a second controller: what logical units it has, and what it can do for us [0082].

By asking, not by trying: standard INQUIRY (the 3PC bit), page 8Fh, and RECEIVE COPY OPERATING
PARAMETERS, the last only from units whose 3PC bit is 1 (LIO answers it also where copying is
switched off). A unit with 3PC 0 is sent nothing that has to do with copying. Reachability cannot be
asked for, so `probe_reach` tries it with a command that copies nothing: a verify segment (07h)
where the controller takes that, else a segment of 0 blocks (02h).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from daiko.backend.lu_facts import LuFacts
from daiko.backend.second_controller import Outcome, SecondController
from daiko.command_control.function_table import CopyLimits, FunctionCell, Known, ReachCell
from daiko.command_control.generation import alias_for, cscd_for
from daiko.command_control.naming import (
    ALIAS,
    DeviceAddress,
    Directory,
    Form,
    Unnameable,
    name_for,
)
from daiko.command_control.plan import Function
from daiko.device.error import Busy, Refused, Unreachable, Unsupported
from daiko.scsi.alias import pack_change_aliases
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage
from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.cscd import Cscd
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import Opcode, Status, ThirdPartyCopyOut
from daiko.scsi.segment import BlockToBlock, Segment, VerifyCscd
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.spc import ChangeAliases, ExtendedCopyLid1, ReceiveCopyOperatingParameters
from daiko.scsi.vpd import Designator, DesignatorType
from daiko.state.record import DeviceFacts

log = structlog.get_logger(__name__)

_ALLOCATION = 1024
"""Bytes. LIO refuses less than its whole answer, and answers TASK SET FULL to none at all."""
_TCMU = "TCMU"
"""Product identification of tcmu-runner begins so. It takes list identifier usage 11b only, and
16 MiB a segment, and says neither."""
_TCMU_SEGMENT_BYTES = 16 << 20
_BLOCK_SIZES = (512, 4096)
_LIST_ID = 255
"""The last of the list identifiers, where one is needed at all: copies take theirs from the
first on."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found."""

    devices: tuple[DeviceFacts, ...]
    """Its disks, by LUN."""
    cells: Mapping[Function, FunctionCell]
    """One for each function."""


async def probe(controller: SecondController) -> ProbeResult:
    """Look at all logical units of an open controller, and ask each whether it copies.

    Raises DeviceError where the controller does not answer."""
    await controller.refresh()
    units = [unit for unit in controller.units.values() if _is_usable(controller, unit)]
    cell = await _function_cell(controller, units)
    devices = tuple(_device_facts(unit) for unit in units)
    return ProbeResult(devices, dict.fromkeys(Function, cell))


def _is_usable(controller: SecondController, unit: LuFacts) -> bool:
    if unit.capacity is None:
        return False
    if unit.capacity.block_size not in _BLOCK_SIZES or unit.capacity.protection:
        log.warning(
            "logical unit passed over",
            backend=controller.name,
            lun=unit.lun,
            block_size=unit.capacity.block_size,
            protection=unit.capacity.protection,
        )
        return False
    return True


def _device_facts(unit: LuFacts) -> DeviceFacts:
    assert unit.capacity is not None
    inquiry = unit.inquiry
    return DeviceFacts(
        lun=unit.lun,
        block_size=unit.capacity.block_size,
        blocks=unit.capacity.blocks,
        peripheral_device_type=inquiry.device_type,
        vendor=inquiry.vendor,
        product=inquiry.product,
        revision=inquiry.revision,
        serial=unit.serial,
        designators=tuple(
            designator.pack().hex() for designator in sorted(unit.identity, key=_rank)
        ),
        third_party_copy=inquiry.third_party_copy,
    )


def _rank(designator: Designator) -> int:
    """Best first: NAA 6, other NAA, EUI-64, T10 vendor identification, others."""
    if designator.is_naa:
        return 0 if designator.data[:1] and designator.data[0] >> 4 == 6 else 1
    if designator.type == DesignatorType.EUI_64:
        return 2
    return 3 if designator.type == DesignatorType.T10_VENDOR_ID else 4


# --- what it can do ------------------------------------------------------------------------------


async def _function_cell(controller: SecondController, units: list[LuFacts]) -> FunctionCell:
    """Whether the controller copies, from all of its units that say they do."""
    able = [unit for unit in units if unit.inquiry.third_party_copy]
    on = _identity_of(able or units)
    if not units:
        return _cannot("it shows no disk", on)
    if not able:
        return _cannot("its logical units say that they take no copy commands (3PC 0)", on)
    found: list[CopyLimits] = []
    refusals: list[str] = []
    for unit in able:
        answer = await _limits_of(controller, unit)
        if isinstance(answer, str):
            refusals.append(f"LU {unit.lun} {answer}")
        else:
            found.append(answer)
    if refusals:
        return _cannot("; ".join(refusals), on)
    limits = _common(found)
    if 0x02 not in limits.segment_types:
        return _cannot("its copy commands do not copy from disk to disk (segment type 02h)", on)
    reason = f"takes EXTENDED COPY: {limits.max_cscds} CSCDs, {limits.max_segments} segments"
    if limits.max_segment_bytes:
        reason += f" of up to {limits.max_segment_bytes} bytes"
    return FunctionCell(True, Known.PROBED, time.time(), reason, limits, on)


def _cannot(reason: str, on: str) -> FunctionCell:
    return FunctionCell(False, Known.PROBED, time.time(), reason, None, on)


def _identity_of(units: list[LuFacts]) -> str:
    if not units:
        return ""
    inquiry = units[0].inquiry
    return " ".join(filter(None, (inquiry.vendor, inquiry.product, inquiry.revision)))


async def _limits_of(controller: SecondController, unit: LuFacts) -> CopyLimits | str:
    """The limits of one unit's copy manager, or why it has none. Raises Unreachable."""
    page = unit.third_party
    if page is not None and not page.supports(
        Opcode.EXTENDED_COPY, ThirdPartyCopyOut.EXTENDED_COPY_LID1
    ):
        return "does not list EXTENDED COPY (LID1) on page 8Fh"
    cdb = ReceiveCopyOperatingParameters.pack(allocation_length=_ALLOCATION)
    try:
        data = await controller.ask(unit.lun, cdb, _ALLOCATION, optional=True)
        said = OperatingParameters.parse(data)
    except (Refused, Unsupported, MalformedData) as error:
        return f"does not say what it takes: {error}"
    segment_bytes = said.max_segment_bytes
    is_tcmu = unit.inquiry.product.startswith(_TCMU)
    if is_tcmu:
        segment_bytes = min(segment_bytes or _TCMU_SEGMENT_BYTES, _TCMU_SEGMENT_BYTES)
    return CopyLimits(
        max_cscds=said.max_cscds,
        max_segments=said.max_segments,
        max_list_bytes=said.max_list_bytes,
        max_segment_bytes=segment_bytes,
        concurrent=max(1, said.concurrent),
        no_list_id=said.no_list_id or is_tcmu,
        only_no_list_id=is_tcmu,
        segment_types=said.segment_types,
        cscd_types=said.cscd_types,
        aliases=ALIAS in said.cscd_types and unit.has_command(Opcode.MAINTENANCE_OUT),
    )


def _common(found: list[CopyLimits]) -> CopyLimits:
    """What holds for all units of the controller."""
    sized = [limits.max_segment_bytes for limits in found if limits.max_segment_bytes]
    return CopyLimits(
        max_cscds=min(limits.max_cscds for limits in found),
        max_segments=min(limits.max_segments for limits in found),
        max_list_bytes=min(limits.max_list_bytes for limits in found),
        max_segment_bytes=min(sized, default=0),
        concurrent=min(limits.concurrent for limits in found),
        no_list_id=all(limits.no_list_id for limits in found),
        only_no_list_id=any(limits.only_no_list_id for limits in found),
        segment_types=_shared([limits.segment_types for limits in found]),
        cscd_types=_shared([limits.cscd_types for limits in found]),
        aliases=all(limits.aliases for limits in found),
    )


def _shared(lists: list[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted(set(lists[0]).intersection(*lists[1:])))


# --- what it can reach ---------------------------------------------------------------------------


async def probe_reach(
    controller: SecondController,
    address: DeviceAddress,
    limits: CopyLimits,
    directory: Directory,
) -> ReachCell:
    """Whether the controller reaches the LU at `address` by itself, named as a copy would name it.

    `limits` are those of its function cell; `directory` holds at least its own LUs. Nothing is
    copied. Raises DeviceError where it does not answer, or is too busy to."""
    own = _receiver(controller, address, directory)
    if own is None:
        return _unreached("it has no logical unit that takes copy commands")
    try:
        naming = name_for(controller.name, address, limits, directory)
        source = name_for(controller.name, own, limits, directory)
    except Unnameable as error:
        return _unreached(str(error))
    if naming.form is Form.ALIAS:
        data = pack_change_aliases([alias_for(address)])
        cdb = ChangeAliases.pack(parameter_list_length=len(data))
        refusal = _refusal(await controller.execute(own.lun, cdb, data))
        if refusal:
            return _unreached(f"it refuses CHANGE ALIASES: {refusal}")
    target = cscd_for(naming, address)
    if VerifyCscd.TYPE in limits.segment_types:
        cscds: tuple[Cscd, ...] = (target,)
        segment: Segment = VerifyCscd(0, test_unit_ready=True)
        how = "verified it (segment 07h)"
    else:
        # A 64-byte descriptor counts as two, so it stands last (its own id is still the first).
        cscds = (cscd_for(source, own), target)
        segment = BlockToBlock(0, 1, 0, 0, 0)
        how = "took a copy of 0 blocks to it"
    if limits.no_list_id:
        list_id, usage = 0, ListIdUsage.DISABLE
    else:
        list_id, usage = _LIST_ID, ListIdUsage.DISCARD
    parameters = ExtendedCopy(list_id, usage, cscds, (segment,)).pack()
    cdb = ExtendedCopyLid1.pack(parameter_list_length=len(parameters))
    refusal = _refusal(await controller.execute(own.lun, cdb, parameters))
    if refusal:
        return _unreached(refusal)
    return ReachCell(True, Known.PROBED, time.time(), f"it {how}")


def _unreached(reason: str) -> ReachCell:
    return ReachCell(False, Known.PROBED, time.time(), reason)


def _receiver(
    controller: SecondController, address: DeviceAddress, directory: Directory
) -> DeviceAddress | None:
    """The LU of the controller that is sent the question: the one asked about where it is its own
    (LIO takes a copy only on its source or destination), else its first."""
    own = [
        other
        for other in directory.values()
        if other.device.backend == controller.name and other.third_party_copy
    ]
    same = [other for other in own if other.device == address.device]
    return next(iter(same or own), None)


def _refusal(answer: Outcome) -> str:
    """Why the command was refused; "" for GOOD. Raises Busy and Unreachable for answers that say
    nothing about the question."""
    if answer.status == Status.GOOD:
        return ""
    if answer.status != Status.CHECK_CONDITION:
        raise Busy(f"status {answer.status:02x}h")
    try:
        sense = parse_sense(answer.sense)
    except MalformedData as error:
        return str(error)
    if sense.key == SenseKey.UNIT_ATTENTION:
        raise Unreachable(str(sense))
    return str(sense)
