"""SITE IN and SITE OUT at a management unit: what another site's first controller asks of us and
tells us (docs/protocol.md).

What a peer may learn is decided by the `Offers` of its site alone: what they do not have does not
exist here. This module turns that into pages. A page holds as many descriptors as fit the
allocation length, at least one; where that one does not fit it is cut off, and LENGTH says how long
the page would have been, as with every other command.

The generation of an answer is a digest of what the whole of it says, so it is another one whenever
anything in it is, the same after a restart, and need not be kept. For a mapping, which may have a
million extents, it is calculated once for each mapping table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Protocol

import structlog

from daiko.command_control.command_table import CommandRow
from daiko.device.block import Buffer
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi import sense
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import SiteIn, SiteOut, Status
from daiko.scsi.sense import CheckCondition
from daiko.scsi.site import DEVICE_BYTE, FUNCTION_BYTE, LENGTH_BYTE, LUN_BYTE
from daiko.scsi.site_parameters import (
    DESCRIPTOR_LENGTH,
    HEADER_LENGTH,
    LONGEST_PAGE,
    Descriptor,
    OtherVersion,
    Page,
    Value,
)
from daiko.scsi.site_values import (
    Envelope,
    FunctionCode,
    Greeting,
    MappedDevice,
    MappedExtent,
    OfferedVolume,
    PeerCell,
    PeerReach,
)
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import ItlNexus
from daiko.target.task import Task

log = structlog.get_logger(__name__)

GOOD: Final = int(Status.GOOD)
MOST_ON_A_PAGE: Final = 0xFFFF
"""COUNT has two bytes."""
MOST_DEVICES: Final = 0x10000
"""Numbers of devices have two bytes."""
LONG_ENOUGH: Final = 64 << 10
"""Bytes at which a page of several descriptors ends, whatever there is room for: the hosts wait
while one is made."""
PAIRS_AT_WORK: Final = 16
"""PAIR commands of one site that may be at work; the next one is answered BUSY."""
VERSION_BYTE: Final = 8
"""Of MAJOR in the header, for a field pointer."""


@dataclass(frozen=True, slots=True)
class OfferedMapping:
    """Where an offered volume lies."""

    devices: tuple[MappedDevice, ...]
    """Those of `table`, in its order and numbered so."""
    table: MappingTable


class PairHandler(Protocol):
    """Who pairs volumes. PAIR goes to it as it comes; `lun` is one that is offered to the site, or
    0 where the peer speaks of none in particular."""

    async def receive(self, site: str, lun: int, envelope: Envelope) -> None:
        """Take what the peer says (PAIR OUT). Raises CheckCondition to refuse it."""

    async def answer(self, site: str, lun: int) -> Sequence[Envelope]:
        """What there is to say to it (PAIR IN). Raises CheckCondition."""


class Offers(Protocol):
    """What one site may learn."""

    site: str
    """Its name here."""

    @property
    def pairs(self) -> PairHandler | None:
        """None: nobody pairs volumes here."""

    def greeting(self, actions_in: int, actions_out: int) -> Greeting:
        """Who we are, with the service actions that we have."""

    def volumes(self) -> Sequence[OfferedVolume]:
        """The volumes that are offered to the site, by LUN."""

    def is_offered(self, lun: int) -> bool: ...

    def mapping(self, lun: int) -> OfferedMapping:
        """Raises KeyError where no volume is offered there."""

    def cell(self, lun: int, device: int, function: FunctionCode) -> PeerCell:
        """Can the controller of the device do the function? Raises KeyError where no volume is
        offered at the LUN, IndexError where it has no device of this number."""

    def function_table(self) -> Sequence[PeerCell | PeerReach]:
        """All cells of the controllers and devices that offered volumes lie on."""


class ManagementCommands:
    """Carries the commands of one site out (`logical_unit.SiteCommands`)."""

    def __init__(self, offers: Offers) -> None:
        self._offers = offers
        self._generations: dict[int, tuple[MappingTable, bytes, int]] = {}
        """LUN -> (table, its devices as they were, generation)."""
        self._at_work: set[asyncio.Task[None]] = set()
        self._answers: dict[int, Callable[[Any], Page]] = {
            SiteIn.GREET: self._greet,
            SiteIn.VOLUMES: self._volumes,
            SiteIn.VOLUME_MAPPING: self._volume_mapping,
            SiteIn.ASK_FUNCTION: self._ask_function,
            SiteIn.FUNCTION_TABLE: self._function_table,
        }

    def execute(self, unit: LogicalUnit, itl: ItlNexus, task: Task, row: CommandRow) -> None:
        """`SiteCommands`."""
        cdb = row.layout.unpack(task.cdb)
        if row.name == SiteOut.PAIR_OUT.name:
            self._pair_out(unit, itl, task, cdb)
        elif row.name == SiteIn.PAIR_IN.name:
            self._pair_in(itl, task, cdb)
        else:
            assert row.service_action is not None
            _finish(itl, task, self._answers[row.service_action](cdb), cdb.allocation_length)

    def stop(self) -> None:
        """The site is no site any more."""
        for work in self._at_work:
            work.cancel()

    # --- what is answered from memory

    def _greet(self, cdb: Any) -> Page:
        has_pairs = self._offers.pairs is not None
        actions = [each for each in SiteIn if each is not SiteIn.PAIR_IN or has_pairs]
        greeting = self._offers.greeting(
            sum(1 << each for each in actions), sum(1 << each for each in SiteOut if has_pairs)
        )
        return Page.of(SiteIn.GREET, [greeting])

    def _volumes(self, cdb: Any) -> Page:
        return _listed(SiteIn.VOLUMES, self._offers.volumes(), cdb)

    def _function_table(self, cdb: Any) -> Page:
        return _listed(SiteIn.FUNCTION_TABLE, self._offers.function_table(), cdb)

    def _volume_mapping(self, cdb: Any) -> Page:
        mapping = self._mapping(cdb.lun)
        devices = [_descriptor(device) for device in mapping.devices]
        numbers = {device: number for number, device in enumerate(mapping.table.devices)}

        def descriptor(index: int) -> Descriptor:
            if index < len(devices):
                return devices[index]
            extent = mapping.table[index - len(devices)]
            return _descriptor(
                MappedExtent(numbers[extent.device], extent.lba, extent.blocks, extent.device_lba)
            )

        total = len(devices) + len(mapping.table)
        generation = self._generation(cdb.lun, mapping.table, devices)
        return _page(SiteIn.VOLUME_MAPPING, descriptor, total, generation, cdb)

    def _ask_function(self, cdb: Any) -> Page:
        if cdb.function not in list(FunctionCode):
            raise CheckCondition(sense.invalid_field_in_cdb(FUNCTION_BYTE))
        mapping = self._mapping(cdb.lun)
        try:
            cell = self._offers.cell(cdb.lun, cdb.device, FunctionCode(cdb.function))
        except IndexError:
            raise CheckCondition(sense.invalid_field_in_cdb(DEVICE_BYTE)) from None
        devices = [_descriptor(device) for device in mapping.devices]
        generation = self._generation(cdb.lun, mapping.table, devices)
        return Page(SiteIn.ASK_FUNCTION, (_descriptor(cell),), 1, generation=generation)

    def _mapping(self, lun: int) -> OfferedMapping:
        try:
            mapping = self._offers.mapping(lun)
        except KeyError:
            self._generations.pop(lun, None)
            raise CheckCondition(sense.invalid_field_in_cdb(LUN_BYTE)) from None
        if len(mapping.devices) > MOST_DEVICES:
            raise CheckCondition(sense.insufficient_resources())
        return mapping

    def _generation(self, lun: int, table: MappingTable, devices: Iterable[Descriptor]) -> int:
        said = b"".join(descriptor.body for descriptor in devices)
        known = self._generations.get(lun)
        if known is not None and known[0] is table and known[1] == said:
            return known[2]
        _, blocks, lbas, index = table.columns()
        generation = _digest([said, blocks.tobytes(), lbas.tobytes(), index.tobytes()])
        self._generations[lun] = (table, said, generation)
        return generation

    # --- pairs

    def _pair_handler(self, lun: int) -> PairHandler:
        handler = self._offers.pairs
        if handler is None:
            raise CheckCondition(sense.invalid_field_in_cdb(1, 4))
        if lun and not self._offers.is_offered(lun):
            raise CheckCondition(sense.invalid_field_in_cdb(LUN_BYTE))
        return handler

    def _pair_in(self, itl: ItlNexus, task: Task, cdb: Any) -> None:
        handler = self._pair_handler(cdb.lun)

        async def answer() -> None:
            envelopes = await handler.answer(self._offers.site, cdb.lun)
            page = _listed(SiteIn.PAIR_IN, envelopes, cdb)
            _finish(itl, task, page, cdb.allocation_length)

        self._begin(itl, task, answer())

    def _pair_out(self, unit: LogicalUnit, itl: ItlNexus, task: Task, cdb: Any) -> None:
        handler = self._pair_handler(cdb.lun)
        length = cdb.parameter_list_length
        if length > LONGEST_PAGE:
            raise CheckCondition(sense.invalid_field_in_cdb(LENGTH_BYTE))
        if not length:
            itl.finish(task, GOOD)
            return

        def received(data: Buffer) -> None:
            envelope = _envelope(data)

            async def receive() -> None:
                await handler.receive(self._offers.site, cdb.lun, envelope)
                itl.finish(task, GOOD)

            self._begin(itl, task, receive())

        unit.receive_exactly(itl, task, length, received)

    def _begin(self, itl: ItlNexus, task: Task, work: Coroutine[Any, Any, None]) -> None:
        """Let the handler of pairs work on a command, which ends with that."""
        if len(self._at_work) >= PAIRS_AT_WORK:
            work.close()
            itl.finish(task, int(Status.BUSY))
            return

        def ended(done: asyncio.Task[None]) -> None:
            self._at_work.discard(done)
            failure = None if done.cancelled() else done.exception()
            if isinstance(failure, CheckCondition):
                itl.refuse(task, failure.sense)
            elif failure is not None or done.cancelled():
                log.error("pair command failed", site=self._offers.site, error=repr(failure))
                itl.refuse(task, sense.internal_target_failure())

        working = asyncio.ensure_future(work)
        self._at_work.add(working)
        working.add_done_callback(ended)


def _envelope(data: Buffer) -> Envelope:
    """The one envelope in a parameter list. Raises CheckCondition."""
    try:
        page = Page.parse(data)
        if page.service_action != SiteOut.PAIR_OUT or len(page.descriptors) != 1:
            raise MalformedData("a list for PAIR OUT holds one envelope")
        only = page.descriptors[0]
        if only.kind != Envelope.kind_code:
            raise MalformedData(f"a descriptor of kind {only.kind} is no envelope")
        return Envelope.of(only.body)
    except OtherVersion:
        condition = sense.invalid_field_in_parameter_list(VERSION_BYTE)
        raise CheckCondition(condition) from None
    except MalformedData:
        raise CheckCondition(sense.invalid_field_in_parameter_list(0)) from None


def _descriptor(value: Value) -> Descriptor:
    return Descriptor(value.kind_code, value.body())


def _listed(action: int, values: Sequence[Value], cdb: Any) -> Page:
    """A page of a list that is short enough to be made as a whole."""
    descriptors = [_descriptor(value) for value in values]
    generation = _digest(part for kind, body in descriptors for part in (bytes((kind,)), body))
    return _page(action, descriptors.__getitem__, len(descriptors), generation, cdb)


def _page(
    action: int, descriptor: Callable[[int], Descriptor], total: int, generation: int, cdb: Any
) -> Page:
    """The page from STARTING INDEX on; none of it where that lies behind the end."""
    first = min(cdb.starting_index, total)
    room = min(cdb.allocation_length, LONG_ENOUGH) - HEADER_LENGTH
    here: list[Descriptor] = []
    for index in range(first, min(total, first + MOST_ON_A_PAGE)):
        found = descriptor(index)
        room -= DESCRIPTOR_LENGTH + len(found.body)
        if room < 0 and here:
            break
        here.append(found)
    return Page(action, tuple(here), total, first, generation)


def _digest(parts: Iterable[bytes]) -> int:
    """A generation: 8 bytes, never 0. Each part counts with its length."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "big") or 1


def _finish(itl: ItlNexus, task: Task, page: Page, allocation_length: int) -> None:
    itl.finish(task, GOOD, (page.pack()[:allocation_length],))
