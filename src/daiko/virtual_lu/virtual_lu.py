"""A virtual LU: a block device whose blocks lie in other devices [0059-0067].

Theory of operation. A request that lies in one extent (nearly all do) is handed to that extent's
device with the address calculated and, where that address is the same, with the caller's own
completion: nothing is made on the way. Otherwise a closure turns the address in an error back into
the volume's, since a host reads the failed block from the sense data. A request that crosses
extents is cut, its parts are sent side by side, and the last to come back completes it; of several
errors the one at the lowest address is reported. After an error in one part the others may have
been done, as with any failed write.

COMPARE AND WRITE, ORWRITE and WRITE ATOMIC inside one extent are the device's own. Across extents
no device could keep other writes away, and the volume has no lock of its own, which every write
would have to pass: `is_native` says so, and who uses the volume makes the operation of reads and
writes while nothing else may touch the blocks.

The devices belong to whoever gave them: several volumes share one, and `close` leaves them open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from math import lcm

from daiko.device.block import (
    Atomic,
    BlockDevice,
    Buffer,
    Capabilities,
    Done,
    PrefetchDone,
    ReadDone,
    Room,
    StatusDone,
)
from daiko.device.error import DeviceError, MediumFailure, OutOfRange, Unsupported
from daiko.mapping.extent import DeviceId
from daiko.mapping.mapping_table import MappingTable


class VirtualLu(BlockDevice):
    """A block device over the extents of a mapping table.

    Raises ValueError where the table is empty, a device is missing, has other blocks than
    `block_size` bytes, or ends before an extent does.
    """

    def __init__(
        self,
        table: MappingTable,
        devices: Mapping[DeviceId, BlockDevice],
        block_size: int,
    ) -> None:
        if not table.blocks:
            raise ValueError("a virtual LU has at least one extent")
        self.block_size = block_size
        self.blocks = table.blocks
        self.table = table
        self._devices = [_device(devices, name, block_size) for name in table.devices]
        for name, end in zip(table.devices, table.ends, strict=True):
            if end > devices[name].blocks:
                raise ValueError(
                    f"an extent ends at block {end} of {name}, which has {devices[name].blocks}"
                )
        self.capabilities = self._capabilities()
        self._find = table.find

    def _capabilities(self) -> Capabilities:
        common = common_capabilities(self._devices)
        if len(self.table) > 1:
            # Across extents no device writes atomically.
            common = replace(common, atomic_blocks=0)
        if not self.table.keeps_alignment(1 << common.physical_exponent):
            # Physical blocks that do not begin where the volume's addresses say help nobody.
            common = replace(common, physical_exponent=0)
        return common

    def ranges_on(self, device: DeviceId) -> list[tuple[int, int]]:
        """The parts of this LU that lie on a device: (first block here, blocks)."""
        return self.table.ranges_on(device)

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if lba < 0 or lba + blocks > self.blocks:
            done(self._outside(lba, blocks), b"")
            return
        number, device_lba, left = self._find(lba)
        if blocks <= left:
            if device_lba != lba:
                done = _read_moved(done, lba - device_lba)
            self._devices[number].read(device_lba, blocks, done)
        else:
            self._read_parts(lba, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        blocks = len(data) // self.block_size
        if lba < 0 or lba + blocks > self.blocks:
            done(self._outside(lba, blocks))
            return
        number, device_lba, left = self._find(lba)
        if blocks <= left:
            if device_lba != lba:
                done = _moved_back(done, lba - device_lba)
            self._devices[number].write(device_lba, data, done, fua)
        else:
            self._write_parts(lba, data, done, fua)

    def flush(self, done: Done) -> None:
        gather = _Gather(len(self._devices), done)
        for position, device in enumerate(self._devices):
            device.flush(gather.part(position, 0))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        if not self.capabilities.unmap:
            done(Unsupported("no device of this volume can unmap"))
            return

        def send(device: BlockDevice, at: int, length: int, part_done: Done) -> None:
            if device.capabilities.unmap:
                device.unmap(at, length, part_done)
            else:
                part_done(None)  # these blocks stay mapped, which SBC-4, 4.7.3.4 allows

        self._change(lba, blocks, send, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        if not self.capabilities.write_same:
            done(Unsupported("a device of this volume has no WRITE SAME"))
            return

        def send(device: BlockDevice, at: int, length: int, part_done: Done) -> None:
            device.write_same(at, length, pattern, part_done)

        self._change(lba, blocks, send, done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        def send(device: BlockDevice, at: int, part_done: Done) -> None:
            device.compare_and_write(at, compare, data, part_done)

        self._change_one(lba, len(data) // self.block_size, send, done)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        def send(device: BlockDevice, at: int, part_done: Done) -> None:
            device.or_write(at, data, part_done)

        self._change_one(lba, len(data) // self.block_size, send, done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        def send(device: BlockDevice, at: int, part_done: Done) -> None:
            device.write_atomic(at, data, part_done)

        self._change_one(lba, len(data) // self.block_size, send, done)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        number, device_lba, left = self._find(lba)
        return blocks <= left and self._devices[number].is_native(operation, device_lba, blocks)

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        if lba < 0 or lba + blocks > self.blocks:
            done(self._outside(lba, blocks), False)
            return
        parts = self._parts(lba, blocks)
        all_fit = True

        def noting(part_done: Done) -> PrefetchDone:
            def finished(error: DeviceError | None, fits: bool) -> None:
                nonlocal all_fit
                all_fit = all_fit and fits
                part_done(error)

            return finished

        gather = _Gather(len(parts), lambda error: done(error, all_fit and error is None))
        for position, (device, at, length, offset) in enumerate(parts):
            device.prefetch(at, length, noting(gather.part(position, lba + offset - at)))
        if not parts:
            done(None, True)

    def room(self) -> Room | None:
        """The least that any thin device has left: a write there is the first to find none. What
        the volume uses of a device that it shares cannot be told."""
        found = [device.room() for device in self._devices if device.capabilities.tells_room]
        rooms = [room for room in found if room is not None]
        if not rooms:
            return None
        return Room(min(room.available for room in rooms), None)

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        """Says no more than the first extent concerned knows; a caller asks on from there."""
        if lba < 0 or lba + blocks > self.blocks:
            done(self._outside(lba, blocks), ())
            return
        number, device_lba, left = self._find(lba)
        self._devices[number].lba_status(device_lba, min(blocks, left), done)

    # -- requests that cross extents, or wait ---------------------------------------------------

    def _parts(self, lba: int, blocks: int) -> list[tuple[BlockDevice, int, int, int]]:
        """The request cut at the edges of extents: (device, block in it, blocks, blocks from the
        start of the request)."""
        parts: list[tuple[BlockDevice, int, int, int]] = []
        offset = 0
        while offset < blocks:
            number, device_lba, left = self._find(lba + offset)
            length = min(left, blocks - offset)
            parts.append((self._devices[number], device_lba, length, offset))
            offset += length
        return parts

    def _read_parts(self, lba: int, blocks: int, done: ReadDone) -> None:
        size = self.block_size
        whole = bytearray(blocks * size)
        parts = self._parts(lba, blocks)
        gather = _Gather(len(parts), lambda error: done(error, whole if error is None else b""))
        for position, (device, at, length, offset) in enumerate(parts):
            part_done = gather.part(position, lba + offset - at)
            device.read(at, length, _into(whole, offset * size, part_done))

    def _write_parts(self, lba: int, data: Buffer, done: Done, fua: bool) -> None:
        size = self.block_size
        view = memoryview(data)
        parts = self._parts(lba, len(data) // size)
        gather = _Gather(len(parts), done)
        for position, (device, at, length, offset) in enumerate(parts):
            part = view[offset * size : (offset + length) * size]
            device.write(at, part, gather.part(position, lba + offset - at), fua)

    def _change(
        self,
        lba: int,
        blocks: int,
        send: Callable[[BlockDevice, int, int, Done], None],
        done: Done,
    ) -> None:
        """Send a change that is no plain write to each device concerned, by `send(device, block,
        blocks, done)`."""
        if lba < 0 or lba + blocks > self.blocks:
            done(self._outside(lba, blocks))
            return
        if blocks == 0:
            done(None)
            return

        parts = self._parts(lba, blocks)
        gather = _Gather(len(parts), done)
        for position, (device, at, length, offset) in enumerate(parts):
            send(device, at, length, gather.part(position, lba + offset - at))

    def _change_one(
        self, lba: int, blocks: int, send: Callable[[BlockDevice, int, Done], None], done: Done
    ) -> None:
        """Send a change that only one device can carry out, by `send(device, block, done)`."""
        if lba < 0 or lba + blocks > self.blocks:
            done(self._outside(lba, blocks))
            return
        if blocks == 0:
            done(None)
            return
        number, device_lba, left = self._find(lba)
        if blocks > left:
            done(Unsupported("the blocks lie in several extents"))
            return
        if device_lba != lba:
            done = _moved_back(done, lba - device_lba)
        send(self._devices[number], device_lba, done)

    def _outside(self, lba: int, blocks: int) -> OutOfRange:
        return OutOfRange(
            f"{blocks} blocks from block {lba} reach outside an LU of {self.blocks} blocks"
        )


class _Gather:
    """Completes a request when its last part is back."""

    __slots__ = ("_done", "_error", "_failed", "_left")

    def __init__(self, parts: int, done: Done) -> None:
        self._left = parts
        self._done = done
        self._error: DeviceError | None = None
        self._failed = parts

    def part(self, position: int, distance: int) -> Done:
        """The completion of a part; `distance` is from the device's addresses to the volume's."""

        def finished(error: DeviceError | None) -> None:
            if error is not None and position < self._failed:
                self._failed = position
                self._error = _moved(error, distance)
            self._left -= 1
            if not self._left:
                self._done(self._error)

        return finished


def common_capabilities(devices: Iterable[BlockDevice]) -> Capabilities:
    """What all of the devices offer; UNMAP where one of them does ([decision 10]: it is a hint, and
    blocks may stay mapped). Raises ValueError where there is none."""
    offers = tuple(dict.fromkeys(device.capabilities for device in devices))
    if not offers:
        raise ValueError("no device, no capabilities")
    return _in_common(offers)


@lru_cache(maxsize=256)
def _in_common(offers: tuple[Capabilities, ...]) -> Capabilities:
    """Thousands of volumes lie on devices of the few kinds that there are."""
    return Capabilities(
        unmap=max(offer.unmap for offer in offers),
        write_same=min(offer.write_same for offer in offers),
        compare_and_write=min(offer.compare_and_write for offer in offers),
        fua=min(offer.fua for offer in offers),
        rotational=any(offer.rotational for offer in offers),
        read_only=any(offer.read_only for offer in offers),
        optimal_blocks=max(offer.optimal_blocks for offer in offers),
        maximum_blocks=min(
            (offer.maximum_blocks for offer in offers if offer.maximum_blocks), default=0
        ),
        unmap_granularity=lcm(
            *(max(1, offer.unmap_granularity) for offer in offers if offer.unmap)
        ),
        unmapped_reads_zero=all(offer.unmapped_reads_zero for offer in offers),
        keeps_room=any(offer.keeps_room for offer in offers),
        tells_room=any(offer.tells_room for offer in offers),
        physical_exponent=max(offer.physical_exponent for offer in offers),
        atomic_blocks=min(offer.atomic_blocks for offer in offers),
    )


def _device(
    devices: Mapping[DeviceId, BlockDevice], name: DeviceId, block_size: int
) -> BlockDevice:
    device = devices.get(name)
    if device is None:
        raise ValueError(f"the volume lies on {name}, which is not there")
    if device.block_size != block_size:
        raise ValueError(
            f"{name} has blocks of {device.block_size} bytes, the volume of {block_size}"
        )
    return device


def _into(whole: bytearray, start: int, done: Done) -> ReadDone:
    """The completion of a part of a read: put the data in its place."""

    def finished(error: DeviceError | None, data: Buffer) -> None:
        if error is None:
            whole[start : start + len(data)] = data
        done(error)

    return finished


def _moved_back(done: Done, distance: int) -> Done:
    return lambda error: done(error if error is None else _moved(error, distance))


def _read_moved(done: ReadDone, distance: int) -> ReadDone:
    return lambda error, data: done(error if error is None else _moved(error, distance), data)


def _moved(error: DeviceError, distance: int) -> DeviceError:
    """The error with the address that it names turned from the device's into the volume's."""
    if isinstance(error, MediumFailure) and error.lba is not None and distance:
        moved = MediumFailure(str(error), writing=error.writing, lba=error.lba + distance)
        moved.__cause__ = error
        return moved
    return error
