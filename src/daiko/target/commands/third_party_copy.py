"""EXTENDED COPY (LID1), RECEIVE COPY RESULTS, CHANGE and REPORT ALIASES (SPC-4, 5.17 and 6.4).

A host's EXTENDED COPY becomes a job of the copy manager, the same kind of job as an administrator's
backup, and its single status goes to the host when the job has ended. Before the job begins
everything is checked that can be known: the list itself (ILLEGAL REQUEST), then in the order of the
segments what each names and whether its ranges lie there (COPY ABORTED with the segment's number).
So a command that cannot be carried out to its end writes nothing at all.

Task management stops a copy: what is in flight comes to its end, then the command ends with COPY
ABORTED, COMMANDS CLEARED. So does the loss of the I_T nexus, which ends all commands of that nexus
(SAM-5, 6.3.4); nobody is told, and the result can no longer be asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from daiko.command_control.command_table import CommandRow
from daiko.command_control.decision import Undecidable
from daiko.command_control.plan import Function
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.devices import Devices
from daiko.copy_manager.error import CopyRefused, Side
from daiko.copy_manager.halt import HaltReason
from daiko.copy_manager.request import BACKUP, COPY, CopyRange, CopyRequest
from daiko.copy_manager.running_job import RunningJob
from daiko.device.awaitable import read
from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.mapping.range_set import RangeSet
from daiko.scsi import sense
from daiko.scsi.alias import pack_report_aliases, parse_change_aliases
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage, parse_extended_copy
from daiko.scsi.copy_results import OperatingParameters
from daiko.scsi.cscd import RECEIVING_LOGICAL_UNIT, AliasCscd
from daiko.scsi.opcode import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    Status,
    ThirdPartyCopyIn,
    ThirdPartyCopyOut,
)
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.sense import CheckCondition, Sense
from daiko.scsi.third_party_page import GeneralOperations, ParameterData, ThirdPartyCopyPage
from daiko.state.record import HostRecord, SiteRecord
from daiko.state.store import Store, StoreError
from daiko.target.commands import copy_answer
from daiko.target.commands.alias_list import AliasLists
from daiko.target.commands.copy_answer import HostSegment
from daiko.target.commands.copy_reservations import conflict, reserved_sides
from daiko.target.commands.cscd_resolution import CscdResolution, Resolved
from daiko.target.commands.list_identifiers import CopyResult, ListIdentifiers
from daiko.target.failure import answer_to
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import ItlNexus, Nexus
from daiko.target.task import Task

log = structlog.get_logger(__name__)

PARAMETERS = OperatingParameters(
    max_cscds=64,
    max_segments=64,
    max_list_bytes=64 * 32 + 64 * 28,
    max_segment_bytes=65535 * 4096,
    total_concurrent=64,
    concurrent=16,
    data_granularity=9,
    no_list_id=True,
    descriptor_types=(
        BlockToBlock.TYPE,
        VerifyCscd.TYPE,
        0xE4,
        0xE5,
        0xE6,
        0xEA,
    ),
)
"""What we say of ourselves (84h/03h, page 8Fh), and what `parse_extended_copy` holds hosts to."""

_LONGEST_LIST = 16 + PARAMETERS.max_list_bytes + 4096
"""Bytes; a parameter list may be longer than its parts, but not by any amount."""

_LONGEST_ALIAS_LIST = 1 << 19

_PAGE = ThirdPartyCopyPage(
    commands=(
        (Opcode.EXTENDED_COPY, (ThirdPartyCopyOut.EXTENDED_COPY_LID1,)),
        (
            Opcode.RECEIVE_COPY_RESULTS,
            (
                ThirdPartyCopyIn.RECEIVE_COPY_STATUS_LID1,
                ThirdPartyCopyIn.RECEIVE_COPY_OPERATING_PARAMETERS,
                ThirdPartyCopyIn.RECEIVE_COPY_FAILURE_DETAILS_LID1,
            ),
        ),
        (Opcode.MAINTENANCE_IN, (MaintenanceIn.REPORT_ALIASES,)),
        (Opcode.MAINTENANCE_OUT, (MaintenanceOut.CHANGE_ALIASES,)),
    ),
    general=GeneralOperations(
        total_concurrent=PARAMETERS.total_concurrent,
        identified_concurrent=PARAMETERS.concurrent,
        max_segment_bytes=PARAMETERS.max_segment_bytes,
        data_granularity=PARAMETERS.data_granularity,
    ),
    parameter_data=ParameterData(
        PARAMETERS.max_cscds, PARAMETERS.max_segments, PARAMETERS.max_list_bytes
    ),
    descriptor_types=PARAMETERS.descriptor_types,
    cscd_ids=(RECEIVING_LOGICAL_UNIT,),
).pack()


class ThirdPartyCopyCommands:
    """The copy manager as hosts see it; one for all logical units of a target."""

    def __init__(self, copy_manager: CopyManager, store: Store, devices: Devices) -> None:
        self._copy_manager = copy_manager
        self._store = store
        self._devices = devices
        self.list_identifiers = ListIdentifiers()
        self.aliases = AliasLists()
        self._running: dict[Task, _HostCopy] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- what a logical unit calls (target/logical_unit.py) --------------------------------------

    def execute(self, unit: LogicalUnit, itl: ItlNexus, task: Task, row: CommandRow) -> None:
        """Carry out one of the commands above. Raises CheckCondition."""
        fields = row.layout.unpack(task.cdb)
        match row.name:
            case "EXTENDED_COPY_LID1":
                self._extended_copy(unit, itl, task, fields.parameter_list_length, row.function)
            case "RECEIVE_COPY_STATUS_LID1":
                data = self.list_identifiers.copy_status(
                    itl.nexus, fields.list_id, fields.allocation_length
                )
                itl.finish(task, Status.GOOD, (data,))
            case "RECEIVE_COPY_FAILURE_DETAILS_LID1":
                data = self.list_identifiers.failure_details(
                    itl.nexus, fields.list_id, fields.allocation_length
                )
                itl.finish(task, Status.GOOD, (data,))
            case "RECEIVE_COPY_OPERATING_PARAMETERS":
                itl.finish(task, Status.GOOD, (PARAMETERS.pack()[: fields.allocation_length],))
            case "CHANGE_ALIASES":
                self._change_aliases(unit, itl, task, fields.parameter_list_length)
            case "REPORT_ALIASES":
                data = pack_report_aliases(self.aliases.aliases(itl.nexus))
                itl.finish(task, Status.GOOD, (data[: fields.allocation_length],))
            case name:
                raise AssertionError(f"row {name} is not of the third-party copy set")

    def page(self, unit: LogicalUnit) -> bytes:
        """VPD page 8Fh."""
        return _PAGE

    def aborted(self, task: Task) -> None:
        """Task management wants this task ended."""
        copy = self._running.get(task)
        if copy is not None:
            copy.cancel()

    def copies_at(self, unit: LogicalUnit) -> list[tuple[ItlNexus, Task]]:
        """The copies that read or write a unit."""
        return [copy.owner for copy in self._running.values() if copy.touches(unit)]

    def reservations_changed(self, unit: LogicalUnit) -> None:
        """A copy goes on only while its host may read and write what it named."""
        for copy in tuple(self._running.values()):
            if copy.touches(unit):
                copy.check_reservations()

    def nexus_lost(self, nexus: Nexus) -> None:
        """Results and aliases are gone. Running copies are ended by their tasks (`aborted`)."""
        self.list_identifiers.forget(nexus)
        self.aliases.forget(nexus)

    # --- commands -------------------------------------------------------------------------------

    def _change_aliases(self, unit: LogicalUnit, itl: ItlNexus, task: Task, length: int) -> None:
        if length == 0:
            itl.finish(task, Status.GOOD)
            return
        if length > _LONGEST_ALIAS_LIST:
            raise CheckCondition(sense.parameter_list_length_error())

        def change(data: Buffer) -> None:
            self.aliases.change(itl.nexus, parse_change_aliases(data))
            itl.finish(task, Status.GOOD)

        unit.receive(itl, task, length, change)

    def _extended_copy(
        self,
        unit: LogicalUnit,
        itl: ItlNexus,
        task: Task,
        length: int,
        function: Function | None,
    ) -> None:
        assert function is not None  # the row says what it asks for
        if length == 0:
            itl.finish(task, Status.GOOD)
            return
        if length > _LONGEST_LIST:
            raise CheckCondition(sense.parameter_list_length_error())

        def begin(data: Buffer) -> None:
            parameters = parse_extended_copy(data, PARAMETERS)
            if not self._copy_manager.has_room_for_host(len(self._running)):
                itl.finish(task, Status.TASK_SET_FULL)
                return
            result = CopyResult()
            if parameters.list_id_usage != ListIdUsage.DISABLE:
                result = self.list_identifiers.begin(itl.nexus, parameters.list_id)
            copy = _HostCopy(self, unit, itl, task, parameters, function, result)
            self._running[task] = copy
            self._spawn(copy.run())

        unit.receive(itl, task, length, begin)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        running = asyncio.create_task(work)
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)


class _HostCopy:
    """One EXTENDED COPY of a host, from its parameter list to its status."""

    def __init__(
        self,
        commands: ThirdPartyCopyCommands,
        unit: LogicalUnit,
        itl: ItlNexus,
        task: Task,
        parameters: ExtendedCopy,
        function: Function,
        result: CopyResult,
    ) -> None:
        self._commands = commands
        self._manager = commands._copy_manager
        self._unit = unit
        self._itl = itl
        self._task = task
        self._parameters = parameters
        self._function = function
        self._result = result
        self._job: RunningJob | None = None
        self._cancelled = asyncio.Event()
        self._segments: dict[int, HostSegment] = {}
        self._reserved: dict[int, Side] = {}
        """Segments that a reservation stopped, with the side that it is at."""
        self._resolution = CscdResolution(
            parameters,
            itl.nexus,
            unit,
            aliases=commands.aliases,
            remote=self._manager.other_machines,
            store=commands._store,
        )

    @property
    def owner(self) -> tuple[ItlNexus, Task]:
        """The command that this copy is."""
        return self._itl, self._task

    def touches(self, unit: LogicalUnit) -> bool:
        """Does it read or write this unit?"""
        return any(
            unit in (segment.source.unit, segment.destination.unit)
            for segment in self._segments.values()
        )

    def check_reservations(self) -> None:
        """Stop where a reservation keeps the host from what is still to be copied."""
        if not self._reserved:
            self._reserved = reserved_sides(self._segments.values(), self._itl.nexus)
        if self._reserved:
            self.cancel()

    def cancel(self) -> None:
        """Stop as soon as nothing is in flight."""
        self._cancelled.set()
        if self._job is not None:
            self._job.halt.request(HaltReason.CANCEL)

    async def run(self) -> None:
        """Check, copy, answer."""
        nexus = self._itl.nexus
        named = [cscd.alias for cscd in self._parameters.cscds if isinstance(cscd, AliasCscd)]
        self._commands.aliases.hold(nexus, named)
        # What a host is told if a defect of this program ends the copy.
        status: int = Status.CHECK_CONDITION
        condition: Sense | None = sense.third_party_error(0)
        try:
            status, condition = await self._outcome()
        except Exception:
            log.exception("copy of a host ended by a defect", host=self._host_name())
            raise
        finally:
            self._commands.aliases.release(nexus, named)
            await self._manager.other_machines.release(self._resolution.remote_places)
            del self._commands._running[self._task]
            self._finish(status, condition)

    def _finish(self, status: int, condition: Sense | None) -> None:
        data = b"" if condition is None else self._unit.sense_bytes(condition)
        processed = len(self._parameters.segments)
        if self._job is not None and status != Status.GOOD:
            processed = copy_answer.first_unfinished(self._job)
        elif status != Status.GOOD:
            processed = 0
        if self._job is None and condition is not None and condition.key != _COPY_ABORTED:
            # Refused before it was begun as a copy: there is no result to ask for.
            self._commands.list_identifiers.withdraw(
                self._itl.nexus, self._parameters.list_id, self._result
            )
        self._result.end(status, data, processed)
        self._itl.finish(self._task, status, (), data)

    async def _outcome(self) -> tuple[int, Sense | None]:
        try:
            await self._check()
            ranges = self._ranges()
            if self._cancelled.is_set():
                return Status.CHECK_CONDITION, self._stopped_at(
                    min(self._reserved, default=0), None
                )
            if not ranges:
                return Status.GOOD, None
            self._job = await self._manager.begin(self._request(ranges), template=self._parameters)
        except CheckCondition as refusal:
            return Status.CHECK_CONDITION, refusal.sense
        except Undecidable as refusal:
            return Status.CHECK_CONDITION, copy_answer.refused(refusal, self._segments)
        except (CopyRefused, StoreError) as error:
            log.warning("copy of a host refused", host=self._host_name(), error=str(error))
            return Status.CHECK_CONDITION, sense.third_party_error(0)
        self._result.job = self._job
        if self._cancelled.is_set():
            self._job.halt.request(HaltReason.CANCEL)
        await self._job.ended.wait()
        if self._reserved and not copy_answer.is_whole(self._job):
            number = copy_answer.first_unfinished(self._job)
            residual = copy_answer.residual(self._job, self._segments.get(number))
            return Status.CHECK_CONDITION, self._stopped_at(number, residual)
        return copy_answer.answer(self._job, self._segments)

    def _stopped_at(self, number: int, residual: int | None) -> Sense:
        """Why the segment with this number was not finished."""
        if number in self._reserved:
            side = self._reserved[number]
            return conflict(self._segments[number], side, residual=residual)
        return sense.copy_commands_cleared(number, residual=residual)

    # --- before anything is written -------------------------------------------------------------

    async def _check(self) -> None:
        """Every segment against what it names. Raises CheckCondition."""
        for number, segment in enumerate(self._parameters.segments):
            if isinstance(segment, VerifyCscd):
                found = await self._resolution.resolve(segment.cscd, number)
                if segment.test_unit_ready:
                    await self._verify_ready(found, number)
                continue
            source = await self._resolution.resolve(segment.source, number)
            destination = await self._resolution.resolve(segment.destination, number)
            checked = self._check_ranges(number, segment, source, destination)
            self._segments[number] = checked
            for side in reserved_sides([checked], self._itl.nexus).values():
                raise CheckCondition(conflict(checked, side))

    async def _verify_ready(self, found: Resolved, number: int) -> None:
        """The unit must answer: a read of its first block shows that all the way down."""
        place = self._manager.devices.place(found.place)
        device, lba, _ = place.table.locate(0)
        try:
            await read(self._manager.devices.block_device(device), lba, 1)
        except DeviceError as error:
            status, said = answer_to(error)
            data = said.fixed() if isinstance(said, Sense) else said or b""
            raise CheckCondition(
                sense.third_party_device_failure(
                    number,
                    cscd_byte=found.cscd_byte,
                    source=sense.ForwardedSense(status, data),
                )
            ) from None

    def _check_ranges(
        self, number: int, segment: BlockToBlock, source: Resolved, destination: Resolved
    ) -> HostSegment:
        counted = destination if segment.dc else source
        size = segment.blocks * counted.block_size
        if size % source.block_size or size % destination.block_size:
            raise CheckCondition(sense.unexpected_inexact_segment(number))
        blocks, written = size // source.block_size, size // destination.block_size
        if segment.source_lba + blocks > source.blocks:
            raise CheckCondition(copy_answer.beyond_the_end(number, source, at_source=True))
        if segment.destination_lba + written > destination.blocks:
            raise CheckCondition(copy_answer.beyond_the_end(number, destination, at_source=False))
        unit = destination.unit
        if unit is not None and unit.is_write_protected:
            refusal = sense.ForwardedSense(Status.CHECK_CONDITION, sense.write_protected().fixed())
            raise CheckCondition(
                sense.third_party_device_failure(
                    number, cscd_byte=destination.cscd_byte, destination=refusal
                )
            )
        return HostSegment(number, segment, source, destination, blocks)

    # --- the job --------------------------------------------------------------------------------

    def _ranges(self) -> tuple[CopyRange, ...]:
        return tuple(
            CopyRange(
                lba=segment.descriptor.source_lba,
                blocks=segment.blocks,
                destination_lba=segment.descriptor.destination_lba,
                source=segment.source.place,
                destination=segment.destination.place,
                number=segment.number,
            )
            for segment in self._segments.values()
            if segment.blocks
        )

    def _request(self, ranges: tuple[CopyRange, ...]) -> CopyRequest:
        return CopyRequest(
            type=BACKUP if self._is_backup() else COPY,
            function=self._function,
            source=ranges[0].source,
            destination=ranges[0].destination,
            ranges=ranges,
            asked_by=self._host_name(),
        )

    def _is_backup(self) -> bool:
        """Whether what the host asks for is a direct backup, which can be brought back as one:
        blocks of one unit of ours to another, none of them overwritten by a later segment."""
        units = set()
        written = RangeSet()
        for segment in self._segments.values():
            first, blocks = segment.descriptor.destination_lba, segment.destination_blocks
            if segment.source.unit is None or segment.destination.unit is None:
                return False
            if written.overlaps(first, blocks):
                return False
            written.add(first, blocks)
            units.add((segment.source.place, segment.destination.place))
        return len(units) == 1 and all(source != destination for source, destination in units)

    def _host_name(self) -> str:
        iqn = self._itl.nexus.initiator_name
        store = self._commands._store
        for site in store.list(SiteRecord):
            if site.initiator == iqn:
                return f"site {site.name} ({iqn})"
        named = [host for host in store.list(HostRecord) if iqn in host.initiators]
        return f"host {named[0].name} ({iqn})" if named else f"host ({iqn})"


_COPY_ABORTED = sense.SenseKey.COPY_ABORTED
