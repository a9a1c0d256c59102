"""The decision: who carries out each part of a request, and why [0045, 0078, 0081-0082, 0085].

`decide` never acts. It cuts every requested segment where an extent ends on either side, so that
each stretch lies on one source and one destination device, and finds an executor for it. A volume
that spans a capable and an incapable controller is thus split, and the capable one gets its part.

**Candidates**, in the order in which they are preferred:

1. the second controller that owns the source: it reads its own disks and sends (push);
2. the second controller that owns the destination: it fetches and writes its own disks (pull);
3. this controller, which reads and writes everything through itself.

The first that is fit is chosen; ties do not exist. Of the two second controllers the owner of the
source comes first because the request is about its data. This controller is last because every
byte would pass through it, and it is always fit: it has a session to every device of the system.

**A second controller is fit** when all of these hold, asked in this order; the first that does not
is the reason of its rejection:

- the mode lets this controller delegate; it is this controller that gives it commands (another
  site's controllers take theirs from there); it has not failed at this request already;
- the function table says that it can do the function, and its limits leave room for one segment
  between the two LUs;
- both LUs have blocks of one size (what copy managers do with unequal ones differs);
- of the source, then of the destination: its own LU announces third-party copy (nothing about
  copying is sent to one that does not); another's LU it reaches, by the function table; and the LU
  can be named in a way that it understands (`naming.py`).

Nothing is sent to find out: what the table does not know counts as cannot, and says so.

**What nobody can do** is refused before anything starts, by an exception that names the segment:
ranges that overlap (copied twice after an interruption they would come out wrong), a range outside
its LU, block sizes that do not divide. Ranges of different segments may overlap: see
`Step.must_follow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from daiko.command_control.function_table import CopyLimits, FunctionTable
from daiko.command_control.naming import DeviceAddress, Directory, Unnameable, name_for
from daiko.command_control.plan import (
    FUNCTION_WORDS,
    THIS_CONTROLLER,
    Executor,
    ExecutorKind,
    Function,
    Mode,
    Plan,
    Rejection,
    Step,
)
from daiko.mapping.extent import DeviceId, Piece
from daiko.mapping.mapping_table import MappingTable, OutsideTable
from daiko.mapping.range_set import RangeSet

BLOCK_TO_BLOCK = 0x02
"""Type code of the segment descriptor that all delegated copies between disks use."""


@dataclass(frozen=True, slots=True)
class Place:
    """A named LU with its mapping: a volume, or a device of a back end as it is."""

    name: str
    block_size: int
    """Bytes."""
    blocks: int
    table: MappingTable
    written_here: str = ""
    """Why every write to it has to pass this controller, where it has to."""

    @classmethod
    def of_device(cls, address: DeviceAddress, blocks: int) -> Place:
        """A real LU as it is, named BACKEND/LUN."""
        table = MappingTable.identity(address.device, blocks)
        return cls(str(address.device), address.block_size, blocks, table)


@dataclass(frozen=True, slots=True)
class RequestedSegment:
    """One run of blocks that someone wants copied."""

    source: Place
    source_lba: int
    destination: Place
    destination_lba: int
    """In blocks of the destination."""
    blocks: int
    """In blocks of the source; 0 is no error and makes no step."""
    number: int | None = None
    """What `Step.segment` will say; None = its position among the segments (from 0)."""


class Undecidable(ValueError):
    """No plan can be made for the request; the message is for the administrator."""

    def __init__(self, message: str, segment: int) -> None:
        super().__init__(message)
        self.segment = segment
        """Number of the requested segment concerned."""


class RangeOutsidePlace(Undecidable):
    """A range reaches beyond the end of its LU."""

    def __init__(self, message: str, segment: int, *, at_source: bool) -> None:
        super().__init__(message, segment)
        self.at_source = at_source


class RangesOverlap(Undecidable):
    """Source and destination of a segment have blocks in common."""


class InexactSegment(Undecidable):
    """The bytes of a segment, or of a part of it in one extent, are no whole number of blocks of
    the destination."""


class NoExecutorLeft(Undecidable):
    """Every executor, this controller too, has failed."""


class _Verdict(NamedTuple):
    executor: Executor
    reason: str
    rejected: tuple[Rejection, ...]


def decide(
    function: Function,
    segments: Sequence[RequestedSegment],
    table: FunctionTable,
    mode: Mode,
    *,
    directory: Directory,
    excluded: Mapping[Executor, str] | None = None,
) -> Plan:
    """Plan a request. `excluded` are executors that failed at it, with the reason of the failure;
    they appear among the rejected ones. Raises a subclass of Undecidable."""
    decision = _Decision(function, table, mode, directory, excluded or {})
    steps: list[Step] = []
    for position, segment in enumerate(segments):
        number = position if segment.number is None else segment.number
        stretches = list(_stretches(segment, number))
        _refuse_overlap(segment, stretches, number)
        for source, destination in stretches:
            verdict = decision.between(
                source.device, destination.device, number, segment.destination.written_here
            )
            steps.append(
                Step(
                    source,
                    destination,
                    verdict.executor,
                    verdict.reason,
                    verdict.rejected,
                    number,
                )
            )
    return Plan(function, tuple(steps))


@dataclass(slots=True)
class _Decision:
    """What the choice of an executor depends on, and the choices made: one for a pair of devices,
    however many stretches lie between them."""

    function: Function
    table: FunctionTable
    mode: Mode
    directory: Directory
    excluded: Mapping[Executor, str]
    made: dict[tuple[DeviceId, DeviceId, str], _Verdict] = field(default_factory=dict)

    def between(
        self, source: DeviceId, destination: DeviceId, segment: int, written_here: str
    ) -> _Verdict:
        verdict = self.made.get((source, destination, written_here))
        if verdict is None:
            verdict = self._choose(
                self.directory[source], self.directory[destination], segment, written_here
            )
            self.made[source, destination, written_here] = verdict
        return verdict

    def _choose(
        self,
        source: DeviceAddress,
        destination: DeviceAddress,
        segment: int,
        written_here: str,
    ) -> _Verdict:
        owners = [address for address in (source, destination) if not address.internal]
        chosen: _Verdict | None = None
        rejected: list[Rejection] = []
        for backend in dict.fromkeys(address.device.backend for address in owners):
            executor = Executor(ExecutorKind.SECOND_CONTROLLER, backend)
            if chosen is not None:
                why = f"not needed: {chosen.executor.name} owns the source and can do it"
                rejected.append(Rejection(executor, why))
                continue
            why_not = written_here or self._why_not(executor, source, destination)
            if why_not:
                rejected.append(Rejection(executor, why_not))
            else:
                reason = self._why(backend, source.device, destination.device)
                chosen = _Verdict(executor, reason, ())
        if chosen is not None:
            why = "not needed: every byte would pass through it"
            if THIS_CONTROLLER in self.excluded:
                why = f"it failed: {self.excluded[THIS_CONTROLLER]}"
            rejected.append(Rejection(THIS_CONTROLLER, why))
        elif THIS_CONTROLLER in self.excluded:
            failures = "; ".join(f"{executor}: {why}" for executor, why in rejected)
            raise NoExecutorLeft(
                f"nobody is left to copy {source.device} to {destination.device}: this controller: "
                f"{self.excluded[THIS_CONTROLLER]}" + (f"; {failures}" if failures else ""),
                segment,
            )
        else:
            why = written_here or self._why_here(owners, destination)
            chosen = _Verdict(THIS_CONTROLLER, why, ())
        return chosen._replace(rejected=tuple(rejected))

    def _why_not(
        self, executor: Executor, source: DeviceAddress, destination: DeviceAddress
    ) -> str:
        """The first thing that keeps a second controller from this copy; "" when nothing does."""
        if self.mode is not Mode.DELEGATE:
            return f"mode {self.mode} delegates nothing"
        commander = next(
            address.commander
            for address in (source, destination)
            if address.device.backend == executor.name
        )
        if commander:
            return f"only {commander} gives it commands"
        if executor in self.excluded:
            return f"it failed: {self.excluded[executor]}"
        backend = executor.name
        words = FUNCTION_WORDS[self.function]
        cell = self.table.function(backend, self.function)
        if cell is None:
            return f"not known whether it can do {words}: probe it or set it by hand"
        if not cell.can:
            return f"cannot do {words} ({cell.known}): {cell.reason}"
        if cell.limits is None:
            return f"can do {words} ({cell.known}), but what its commands may contain is not known"
        return (
            _why_no_room(cell.limits)
            or _why_not_converted(source, destination)
            or self._why_not_of_use(backend, source, cell.limits)
            or self._why_not_of_use(backend, destination, cell.limits)
        )

    def _why_not_of_use(self, backend: str, lu: DeviceAddress, limits: CopyLimits) -> str:
        """What keeps a second controller from reading or writing this LU; "" when nothing does."""
        if lu.withheld:
            return lu.withheld
        if lu.internal:
            return f"{lu.device} is a disk of this controller, which nobody else reaches"
        if lu.device.backend == backend:
            if not lu.third_party_copy:
                return f"its LU {lu.device} announces no third-party copy (3PC = 0)"
        else:
            cell = self.table.reaches(backend, lu.device)
            if cell is None:
                return f"not known whether it reaches {lu.device}: probe it or set it by hand"
            if not cell.can:
                return f"does not reach {lu.device} ({cell.known}): {cell.reason}"
        try:
            name_for(backend, lu, limits, self.directory)
        except Unnameable as unnameable:
            return str(unnameable)
        return ""

    def _why(self, backend: str, source: DeviceId, destination: DeviceId) -> str:
        """Why this second controller was chosen."""
        cell = self.table.function(backend, self.function)
        assert cell is not None  # it was found fit
        can = f"can do {FUNCTION_WORDS[self.function]} ({cell.known})"
        if source.backend == destination.backend:
            return f"{backend} owns the source and the destination and {can}"
        side, other = ("source", destination)
        if source.backend != backend:
            side, other = ("destination", source)
        reach = self.table.reaches(backend, other)
        assert reach is not None
        return f"{backend} owns the {side}, {can} and reaches {other} ({reach.known})"

    def _why_here(self, owners: list[DeviceAddress], destination: DeviceAddress) -> str:
        if self.mode is not Mode.DELEGATE:
            return f"mode {self.mode}: this controller does everything itself"
        if not owners and destination.withheld:
            return destination.withheld
        if not owners:
            return "source and destination are disks of this controller"
        if any(executor.delegated for executor in self.excluded):
            return "no controller that owns the data is left that can do it"
        return "no controller that owns the data can do it"


def _why_no_room(limits: CopyLimits) -> str:
    """Why one segment between two LUs would not fit a command; the sizes are of LID1."""
    if BLOCK_TO_BLOCK not in limits.segment_types:
        return "its copy commands take no disk to disk segment (type 02h)"
    if limits.max_cscds < 2 or limits.max_segments < 1 or limits.max_segment_blocks < 1:
        return "its limits leave no room for a segment between two LUs"
    if 0 < limits.max_list_bytes < 2 * 32 + 28:
        return f"its limit of {limits.max_list_bytes} bytes a command leaves no room for a segment"
    return ""


def _why_not_converted(source: DeviceAddress, destination: DeviceAddress) -> str:
    if source.block_size != destination.block_size:
        return (
            f"blocks of {source.block_size} and of {destination.block_size} bytes: only this "
            "controller converts"
        )
    return ""


def _stretches(segment: RequestedSegment, number: int) -> Iterator[tuple[Piece, Piece]]:
    """Cut a segment where either side leaves a run of one device: (source, destination) pairs of
    equally many bytes. Extents that follow one another on one device are one run."""
    source_size, destination_size = segment.source.block_size, segment.destination.block_size
    total = segment.blocks * source_size
    if total % destination_size:
        raise InexactSegment(
            f"{segment.blocks} blocks of {source_size} bytes are no whole number of blocks of "
            f"{destination_size} bytes",
            number,
        )
    sources = _runs(segment.source, segment.source_lba, segment.blocks, number, True)
    destinations = _runs(
        segment.destination, segment.destination_lba, total // destination_size, number, False
    )
    source = destination = Piece(DeviceId("", 0), 0, 0)
    while total:
        source = source if source.blocks else next(sources)
        destination = destination if destination.blocks else next(destinations)
        length = min(source.blocks * source_size, destination.blocks * destination_size)
        if length % source_size or length % destination_size:
            raise InexactSegment(
                f"an extent ends inside a block: {segment.source.name} has blocks of {source_size} "
                f"bytes, {segment.destination.name} of {destination_size}",
                number,
            )
        here, source = _split(source, length // source_size)
        there, destination = _split(destination, length // destination_size)
        yield here, there
        total -= length


def _runs(place: Place, lba: int, blocks: int, number: int, at_source: bool) -> Iterator[Piece]:
    try:
        pieces = place.table.lookup(lba, blocks)
    except OutsideTable:
        raise RangeOutsidePlace(
            f"{blocks} blocks from block {lba} reach outside {place.name}, which has "
            f"{place.blocks} blocks",
            number,
            at_source=at_source,
        ) from None
    return _joined(pieces)


def _joined(pieces: Sequence[Piece]) -> Iterator[Piece]:
    held: Piece | None = None
    for piece in pieces:
        if held is None:
            held = piece
        elif held.device == piece.device and held.lba + held.blocks == piece.lba:
            held = held._replace(blocks=held.blocks + piece.blocks)
        else:
            yield held
            held = piece
    if held is not None:
        yield held


def _split(piece: Piece, blocks: int) -> tuple[Piece, Piece]:
    device, lba, length = piece
    return Piece(device, lba, blocks), Piece(device, lba + blocks, length - blocks)


def _refuse_overlap(
    segment: RequestedSegment, stretches: Sequence[tuple[Piece, Piece]], number: int
) -> None:
    """Raises RangesOverlap where any block of the segment's source is one of its destination."""
    written: dict[DeviceId, RangeSet] = {}
    shared = {here.device for here, _ in stretches} & {there.device for _, there in stretches}
    for _, there in stretches:
        if there.device in shared:
            written.setdefault(there.device, RangeSet()).add(there.lba, there.blocks)
    for here, _ in stretches:
        if here.device in written and written[here.device].overlaps(here.lba, here.blocks):
            raise RangesOverlap(
                f"source and destination overlap: {here.blocks} blocks from block {here.lba} of "
                f"{here.device} would be read and written",
                number,
            )
