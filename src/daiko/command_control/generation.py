"""The generation: from what a host asked for to what a second controller is asked for [0046, 0083].

A second command keeps the structure of the host's command. Only these change: the identifiers of
the LUs (the virtual LU's become the real LU's), the addresses and counts, and the list identifier,
since many hosts share our one nexus with a second controller. Device types, block lengths, the
bits of each descriptor and of the header, and bits that nobody understands stay as the host sent
them. So a second controller needs nothing special: it sees what a host would have sent. Where no
host sent a command (an administrator's backup) the same form is made from nothing.

The structure gives way only where a limit or a fact makes it impossible: CSCDs that no segment of
the second command uses are left out, "the LU that received this" (id FFFFh) becomes an explicit
descriptor, an LU on another machine than the executor's is named by alias, and one segment
becomes several, or several commands, where extents or the executor's limits cut it.

How segments are put into commands: in the order of the steps, as many as the limits allow,
provided the LU that receives the command is the source or the destination of each of them (some
copy managers insist). A segment that must be cut is cut where the source address is a multiple of
1 MiB, so that a copy manager which reads through a cache or onto flash keeps its alignment. Without
a host's command no more than `command_bytes` go into one command: each answer confirms that much,
and a lost connection loses no more. A copy that has a pace to keep is cut finer, a host's too.

Commands are made one by one as they are asked for: a copy of many terabytes is many thousands.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import NamedTuple

from daiko.command_control.function_table import CopyLimits
from daiko.command_control.naming import (
    DeviceAddress,
    Directory,
    Form,
    Naming,
    Unnameable,
    name_for,
)
from daiko.command_control.plan import Step
from daiko.mapping.extent import DeviceId
from daiko.scsi.alias import Alias
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage
from daiko.scsi.cscd import AliasCscd, Cscd, IdentificationCscd, Ipv4Cscd, Ipv6Cscd
from daiko.scsi.report import lun_field
from daiko.scsi.segment import MAX_BLOCK_TO_BLOCK, BlockToBlock
from daiko.scsi.spc import ExtendedCopyLid1
from daiko.scsi.vpd import Designator

__all__ = [
    "COMMAND_BYTES",
    "GRANULE",
    "MOST_COMMAND_BYTES",
    "Cover",
    "DeviceAddress",
    "Directory",
    "SecondCommand",
    "Unnameable",
    "alias_for",
    "command_bytes_for",
    "cscd_for",
    "generate",
]

COMMAND_BYTES = 64 << 20
"""How much one command copies at most when no host's command says otherwise."""

MOST_COMMAND_BYTES = 256 << 20
"""The same of a large copy: see `command_bytes_for`."""

GRANULE = 1 << 20
"""Bytes; where a segment is cut, and the least that a command need copy."""


class Cover(NamedTuple):
    """What one segment of a second command copies."""

    step: int
    """Position among the steps given to `generate`."""
    offset: int
    """Source blocks from the step's start."""
    blocks: int


@dataclass(frozen=True, slots=True)
class SecondCommand:
    """One EXTENDED COPY (LID1) to a second controller."""

    backend: str
    lun: int
    """Of the LU that receives it: source or destination of all its segments."""
    cdb: bytes
    parameter_list: bytes
    """Ready to send, except for the list identifier where `needs_list_id`."""
    aliases: tuple[Alias, ...]
    """The nexus must know these (CHANGE ALIASES) before the command is sent. An alias value
    belongs to one target and portal for ever, so those that the nexus knows already stand."""
    covers: tuple[Cover, ...]
    """One for each segment, in order."""
    needs_list_id: bool
    """The list identifier (0 here) must be one that is free on the nexus."""
    size: int
    """Bytes that it copies."""

    def with_list_id(self, list_id: int) -> bytes:
        """The parameter list with this list identifier (0 to 255). Raises ValueError."""
        if not self.needs_list_id and list_id:
            raise ValueError("this command has no list identifier")
        return bytes((list_id,)) + self.parameter_list[1:]


def command_bytes_for(copy_bytes: int) -> int:
    """How much one command of a copy of so many bytes should carry: `COMMAND_BYTES`, and more of a
    large one, whose progress shows finely enough with larger commands, up to
    `MOST_COMMAND_BYTES`. What a command costs this controller does not depend on its size."""
    return min(max(COMMAND_BYTES, copy_bytes // 16), MOST_COMMAND_BYTES)


def generate(
    steps: Sequence[Step],
    directory: Directory,
    limits: CopyLimits,
    template: ExtendedCopy | None = None,
    *,
    command_bytes: int = COMMAND_BYTES,
    most_bytes: int | None = None,
) -> Iterator[SecondCommand]:
    """The commands that carry out `steps`, which all have one second controller as executor.

    `template` is the host's command; `Step.segment` then counts its segments, each of which that
    is a part of a step is a block to block one. `command_bytes` bounds a command without a
    template, `most_bytes` any; neither is less than GRANULE. The commands may be sent side by side,
    except that those for a step which must follow another (`Step.must_follow`) wait for it. Raises
    ValueError for steps of several executors or of this controller, Unnameable where the decision
    would not have chosen this executor.
    """
    executors = {step.executor for step in steps}
    if len(executors) > 1 or not all(executor.delegated for executor in executors):
        raise ValueError("second commands are for the steps of one second controller")
    bounds = [most_bytes, command_bytes if template is None else None]
    room = min((bound for bound in bounds if bound is not None), default=None)
    return _commands(steps, directory, limits, template, room)


def _commands(
    steps: Sequence[Step],
    directory: Directory,
    limits: CopyLimits,
    template: ExtendedCopy | None,
    room: int | None,
) -> Iterator[SecondCommand]:
    draft: _Draft | None = None
    for position, step in enumerate(steps):
        block_size = directory[step.source.device].block_size
        most = _most_blocks(limits, block_size, room)
        for offset, blocks in _cuts(step.source.lba, step.source.blocks, most, block_size):
            cover = Cover(position, offset, blocks)
            if draft is not None and draft.takes(step, cover):
                continue
            if draft is not None:
                yield draft.command()
            draft = _Draft(step, directory, limits, template, room)
            if not draft.takes(step, cover):
                raise Unnameable(f"the limits of {step.executor.name} leave no room for a segment")
    if draft is not None:
        yield draft.command()


def _most_blocks(limits: CopyLimits, block_size: int, command_bytes: int | None) -> int:
    most = min(MAX_BLOCK_TO_BLOCK, limits.max_segment_blocks)
    for most_bytes in (limits.max_segment_bytes, command_bytes):
        if most_bytes:
            most = min(most, most_bytes // block_size)
    return max(1, most)


def _cuts(lba: int, blocks: int, most: int, block_size: int) -> Iterator[tuple[int, int]]:
    """Cut `blocks` blocks from `lba` on into runs of at most `most`: (offset, blocks) each."""
    granule = GRANULE // block_size
    offset = 0
    while blocks - offset > most:
        at = lba + offset
        aligned = (at + most) // granule * granule
        length = aligned - at if aligned > at else most
        yield offset, length
        offset += length
    if blocks > offset:
        yield offset, blocks - offset


_Name = tuple[DeviceId, int | None]
"""A CSCD descriptor to be: the LU, and the host's id for it. A host that names one LU twice (with
another block length, or to tell source from destination) finds both descriptors again."""


class _Draft:
    """A second command in the making."""

    def __init__(
        self,
        first: Step,
        directory: Directory,
        limits: CopyLimits,
        template: ExtendedCopy | None,
        room: int | None,
    ) -> None:
        self._backend = first.executor.name
        owns_source = first.source.device.backend == self._backend
        self._receiver = (first.source if owns_source else first.destination).device
        self._directory = directory
        self._limits = limits
        self._template = template
        self._room = room
        self._cscds: dict[_Name, Cscd] = {}
        self._segments: list[tuple[BlockToBlock, _Name, _Name]] = []
        """Each without its CSCD ids, which are known when all CSCDs are."""
        self._covers: list[Cover] = []
        self._size = 0

    def takes(self, step: Step, cover: Cover) -> bool:
        """Put a segment in, if the command stays within the limits with it."""
        if self._receiver not in (step.source.device, step.destination.device):
            return False
        length = cover.blocks * self._directory[step.source.device].block_size
        if self._room is not None and length > self._room:
            return False
        asked = self._asked(step)
        source: _Name = (step.source.device, None if asked is None else asked.source)
        destination: _Name = (step.destination.device, None if asked is None else asked.destination)
        cscds = dict(self._cscds)
        for name in (source, destination):
            if name not in cscds:
                cscds[name] = self._cscd(name)
        limits = self._limits
        size = sum(cscd.size for cscd in cscds.values()) + 28 * (len(self._segments) + 1)
        if (
            len(cscds) > limits.max_cscds
            or len(self._segments) >= limits.max_segments
            or 0 < limits.max_list_bytes < size
        ):
            return False
        segment = replace(
            asked or _BLANK,
            blocks=cover.blocks,
            source_lba=step.source.lba + cover.offset,
            destination_lba=step.destination.lba + cover.offset,
        )
        self._cscds = cscds
        self._segments.append((segment, source, destination))
        self._covers.append(cover)
        self._size += length
        if self._room is not None:
            self._room -= length
        return True

    def _asked(self, step: Step) -> BlockToBlock | None:
        """The host's segment that the step is a part of."""
        if self._template is None:
            return None
        segment = self._template.segments[step.segment]
        if not isinstance(segment, BlockToBlock):
            raise ValueError(f"segment {step.segment} of the host's command copies nothing")
        return segment

    def _cscd(self, name: _Name) -> Cscd:
        device, host_id = name
        given = None
        if self._template is not None and host_id is not None:
            given = self._template.cscd(host_id)
        address = self._directory[device]
        naming = name_for(self._backend, address, self._limits, self._directory)
        return cscd_for(naming, address, given)

    def _order(self) -> list[_Name]:
        """The CSCDs as the host had them, those that it did not spell out last; without a host's
        command as the segments use them. Descriptors of two units go to the end: not every copy
        manager counts ids past them in the same way."""

        def place(name: _Name) -> tuple[bool, int]:
            return self._cscds[name].size > 32, name[1] or 0

        return sorted(self._cscds, key=place)

    def command(self) -> SecondCommand:
        """The command with all that was put in."""
        names = self._order()
        usage = self._usage()
        parameters = replace(
            self._template or ExtendedCopy(0, usage, (), ()),
            list_id=0,
            list_id_usage=usage,
            cscds=tuple(self._cscds[name] for name in names),
            inline=b"",
        )
        ids = dict(zip(names, parameters.cscd_ids, strict=True))
        segments = tuple(
            replace(segment, source=ids[source], destination=ids[destination])
            for segment, source, destination in self._segments
        )
        data = replace(parameters, segments=segments).pack()
        return SecondCommand(
            self._backend,
            self._directory[self._receiver].lun,
            ExtendedCopyLid1.pack(parameter_list_length=len(data)),
            data,
            tuple(self._named_aliases()),
            tuple(self._covers),
            usage != ListIdUsage.DISABLE,
            self._size,
        )

    def _usage(self) -> int:
        """The host's choice where the executor allows it; an administrator's copy needs no id."""
        limits = self._limits
        if limits.only_no_list_id:
            return ListIdUsage.DISABLE
        wanted = ListIdUsage.DISABLE if self._template is None else self._template.list_id_usage
        if wanted == ListIdUsage.DISABLE and not limits.no_list_id:
            return ListIdUsage.DISCARD
        return wanted

    def _named_aliases(self) -> Iterator[Alias]:
        targets = {
            cscd.alias: self._directory[device]
            for (device, _), cscd in self._cscds.items()
            if isinstance(cscd, AliasCscd)
        }
        return (alias_for(address) for address in targets.values())


_BLANK = BlockToBlock(0, 0, 0, 0, 0)


def cscd_for(naming: Naming, address: DeviceAddress, given: Cscd | None = None) -> Cscd:
    """The CSCD descriptor that names a real LU in this way. What `given` (the host's descriptor
    for the same thing) says beside the name is kept, but for the port of ours that it chose."""
    fresh = _named(naming, address)
    if given is None:
        return replace(fresh, block_length=address.block_size)
    return replace(
        fresh,
        device_type=given.device_type,
        block_length=given.block_length,
        pad=given.pad,
        fixed=given.fixed,
        nul=given.nul,
        image=given.image if type(given) is type(fresh) else b"",
    )


def _named(naming: Naming, address: DeviceAddress) -> Cscd:
    if naming.form is Form.IDENTIFICATION:
        raw = naming.designator
        designator = Designator(raw[0] & 0x0F, raw[1] >> 4 & 0x03, raw[1] & 0x0F, raw[4:])
        return IdentificationCscd(designator)
    lun = lun_field(address.lun)
    if naming.form is Form.ALIAS:
        return AliasCscd(lun, alias_for(address).value)
    host, port = _host_and_port(address.portals[0])
    ip = ipaddress.ip_address(host)
    return (Ipv4Cscd if ip.version == 4 else Ipv6Cscd)(lun, ip.packed, port)


def alias_for(address: DeviceAddress) -> Alias:
    """The alias of an LU's target at its first portal. Its value is calculated from both, so that
    it is the same in every command and means the same on every nexus."""
    portal = address.portals[0]
    value = int.from_bytes(sha256(f"{address.iqn} {portal}".encode()).digest()[:8], "big")
    host, port = _host_and_port(portal)
    return Alias(value, address.iqn, host, port)


def _host_and_port(portal: str) -> tuple[str, int]:
    host, _, port = portal.rpartition(":")
    return host.strip("[]"), int(port)
