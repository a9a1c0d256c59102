"""The behaviour that every `BlockDevice` shares: subclass `BlockDeviceSuite`, give it a `device`
fixture that yields a device of at least 256 blocks whose contents may be overwritten, and all of
this runs on it.

    class TestMemoryDevice(BlockDeviceSuite):
        @pytest.fixture
        async def device(self):
            yield MemoryDevice(1024)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from daiko.device import awaitable
from daiko.device.block import Atomic, BlockDevice, Buffer, Level
from daiko.device.error import DeviceError, Miscompare, OutOfRange, Unsupported


def pattern(blocks: int, block_size: int, seed: int) -> bytes:
    """Bytes that differ from block to block and from seed to seed."""
    return random.Random(seed).randbytes(blocks * block_size)


class Outcomes(list[DeviceError | None]):
    """Collects completions; `all_of` waits until there are that many."""

    def __init__(self) -> None:
        super().__init__()
        self._grew = asyncio.Event()

    def note(self, error: DeviceError | None) -> None:
        self.append(error)
        self._grew.set()

    async def all_of(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self) < count:
                self._grew.clear()
                await self._grew.wait()


class AtomicCommands:
    """What a device does in one: COMPARE AND WRITE, ORWRITE, WRITE ATOMIC, or refuses."""

    async def test_compare_and_write_that_matches_writes(self, device: BlockDevice) -> None:
        size = device.block_size
        old, new = pattern(1, size, 17), pattern(1, size, 18)
        await awaitable.write(device, 20, old)
        if not device.is_native(Atomic.COMPARE_AND_WRITE, 20, 1):
            with pytest.raises(Unsupported):
                await awaitable.compare_and_write(device, 20, old, new)
            return
        await awaitable.compare_and_write(device, 20, old, new)
        assert bytes(await awaitable.read(device, 20, 1)) == new

    @pytest.mark.parametrize("offset", [0, 1, 255, 511])
    async def test_compare_and_write_that_differs_writes_nothing(
        self, device: BlockDevice, offset: int
    ) -> None:
        if not device.is_native(Atomic.COMPARE_AND_WRITE, 20, 1):
            with pytest.raises(Unsupported):
                await awaitable.compare_and_write(device, 20, bytes(512), bytes(512))
            return
        old = pattern(1, device.block_size, 19)
        await awaitable.write(device, 20, old)
        other = bytearray(old)
        other[offset] ^= 0x80
        with pytest.raises(Miscompare) as caught:
            await awaitable.compare_and_write(device, 20, other, bytes(len(old)))
        assert caught.value.offset == offset
        assert bytes(await awaitable.read(device, 20, 1)) == old

    async def test_compare_and_writes_in_flight_together_succeed_once(
        self, device: BlockDevice
    ) -> None:
        if not device.is_native(Atomic.COMPARE_AND_WRITE, 40, 1):
            with pytest.raises(Unsupported):
                await awaitable.compare_and_write(device, 40, bytes(512), bytes(512))
            return
        size = device.block_size
        await awaitable.write(device, 40, bytes(size))
        outcomes = Outcomes()
        for contender in range(16):
            device.compare_and_write(
                40, bytes(size), pattern(1, size, 20 + contender), outcomes.note
            )
        await outcomes.all_of(16)
        assert outcomes.count(None) == 1
        assert sum(isinstance(outcome, Miscompare) for outcome in outcomes) == 15

    async def test_or_write_sets_the_bits_of_the_data(self, device: BlockDevice) -> None:
        size = device.block_size
        native = device.is_native(Atomic.OR_WRITE, 44, 1)
        if not native:
            with pytest.raises(Unsupported):
                await awaitable.or_write(device, 44, bytes(size))
            return
        old, new = pattern(1, size, 40), pattern(1, size, 41)
        await awaitable.write(device, 44, old)
        await awaitable.or_write(device, 44, new)
        expected = bytes(one | other for one, other in zip(old, new, strict=True))
        assert bytes(await awaitable.read(device, 44, 1)) == expected

    async def test_or_writes_in_flight_together_lose_no_bit(self, device: BlockDevice) -> None:
        size = device.block_size
        if not device.is_native(Atomic.OR_WRITE, 45, 1):
            with pytest.raises(Unsupported):
                await awaitable.or_write(device, 45, bytes(size))
            return
        await awaitable.write(device, 45, bytes(size))
        outcomes = Outcomes()
        for bit in range(8):
            device.or_write(45, bytes([1 << bit]) * size, outcomes.note)
        await outcomes.all_of(8)
        assert outcomes == [None] * 8
        assert bytes(await awaitable.read(device, 45, 1)) == b"\xff" * size

    async def test_atomic_write_is_read_back(self, device: BlockDevice) -> None:
        size = device.block_size
        native = device.is_native(Atomic.WRITE, 46, 1)
        if not native:
            with pytest.raises(Unsupported):
                await awaitable.write_atomic(device, 46, bytes(size))
            return
        data = pattern(1, size, 42)
        await awaitable.write(device, 45, bytes(3 * size))
        await awaitable.write_atomic(device, 46, data)
        assert bytes(await awaitable.read(device, 45, 3)) == bytes(size) + data + bytes(size)


class BlockDeviceSuite(AtomicCommands):
    """One test per behaviour."""

    @pytest.fixture
    def device(self) -> BlockDevice:
        raise NotImplementedError("the subclass gives the device")

    async def test_geometry_is_of_whole_blocks(self, device: BlockDevice) -> None:
        assert device.block_size in (512, 4096)
        assert device.blocks >= 256

    async def test_read_after_write_returns_the_data(self, device: BlockDevice) -> None:
        data = pattern(5, device.block_size, 1)
        await awaitable.write(device, 3, data)
        assert bytes(await awaitable.read(device, 3, 5)) == data

    async def test_read_of_a_part_returns_that_part(self, device: BlockDevice) -> None:
        size = device.block_size
        data = pattern(8, size, 2)
        await awaitable.write(device, 16, data)
        assert bytes(await awaitable.read(device, 18, 3)) == data[2 * size : 5 * size]

    async def test_write_leaves_its_neighbours_alone(self, device: BlockDevice) -> None:
        size = device.block_size
        before = pattern(9, size, 3)
        await awaitable.write(device, 32, before)
        await awaitable.write(device, 35, pattern(2, size, 4))
        after = bytes(await awaitable.read(device, 32, 9))
        assert after == before[: 3 * size] + pattern(2, size, 4) + before[5 * size :]

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_write_takes_any_buffer(self, device: BlockDevice, kind: type) -> None:
        data = pattern(2, device.block_size, 5)
        await awaitable.write(device, 0, kind(data))
        assert bytes(await awaitable.read(device, 0, 2)) == data

    async def test_last_block_is_usable(self, device: BlockDevice) -> None:
        data = pattern(1, device.block_size, 6)
        await awaitable.write(device, device.blocks - 1, data)
        assert bytes(await awaitable.read(device, device.blocks - 1, 1)) == data

    async def test_nothing_to_do_completes_without_error(self, device: BlockDevice) -> None:
        assert bytes(await awaitable.read(device, 7, 0)) == b""
        await awaitable.write(device, 7, b"")

    @pytest.mark.parametrize("blocks", [1, 2, 300])
    async def test_read_beyond_the_end_is_out_of_range(
        self, device: BlockDevice, blocks: int
    ) -> None:
        with pytest.raises(OutOfRange):
            await awaitable.read(device, device.blocks - blocks + 1, blocks)

    async def test_write_beyond_the_end_is_out_of_range(self, device: BlockDevice) -> None:
        last = device.blocks - 1
        before = bytes(await awaitable.read(device, last, 1))
        with pytest.raises(OutOfRange):
            await awaitable.write(device, last, pattern(2, device.block_size, 7))
        assert bytes(await awaitable.read(device, last, 1)) == before

    async def test_large_transfer_is_whole(self, device: BlockDevice) -> None:
        blocks = min(device.blocks, (5 << 20) // device.block_size)
        data = pattern(blocks, device.block_size, 8)
        await awaitable.write(device, device.blocks - blocks, data)
        assert bytes(await awaitable.read(device, device.blocks - blocks, blocks)) == data

    async def test_many_in_flight_complete_each_once(self, device: BlockDevice) -> None:
        size = device.block_size
        outcomes = Outcomes()
        for lba in range(128):
            device.write(lba, pattern(1, size, lba), outcomes.note)
        await outcomes.all_of(128)
        found: dict[int, bytes] = {}

        def keep(lba: int, error: DeviceError | None, data: Buffer) -> None:
            outcomes.note(error)
            found[lba] = bytes(data)

        for lba in range(128):
            device.read(lba, 1, lambda error, data, lba=lba: keep(lba, error, data))
        await outcomes.all_of(256)
        assert outcomes == [None] * 256
        assert found == {lba: pattern(1, size, lba) for lba in range(128)}

    async def test_data_read_stays_when_the_blocks_are_overwritten(
        self, device: BlockDevice
    ) -> None:
        data = pattern(4, device.block_size, 9)
        await awaitable.write(device, 8, data)
        kept = await awaitable.read(device, 8, 4)
        await awaitable.write(device, 8, pattern(4, device.block_size, 10))
        assert bytes(kept) == data

    async def test_random_operations_equal_a_plain_array(self, device: BlockDevice) -> None:
        chance = random.Random(11)
        size, blocks = device.block_size, min(device.blocks, 256)
        await awaitable.write(device, 0, bytes(blocks * size))
        model = bytearray(blocks * size)
        for turn in range(60):
            lba = chance.randrange(blocks)
            count = chance.randint(1, blocks - lba)
            if chance.random() < 0.5:
                data = pattern(count, size, 1000 + turn)
                model[lba * size : (lba + count) * size] = data
                fua = bool(device.capabilities.fua) and chance.random() < 0.1
                await awaitable.write(device, lba, data, fua=fua)
            else:
                found = bytes(await awaitable.read(device, lba, count))
                assert found == model[lba * size : (lba + count) * size]
        assert bytes(await awaitable.read(device, 0, blocks)) == model

    async def test_flush_completes(self, device: BlockDevice) -> None:
        await awaitable.write(device, 1, pattern(1, device.block_size, 12))
        await awaitable.flush(device)
        assert bytes(await awaitable.read(device, 1, 1)) == pattern(1, device.block_size, 12)

    async def test_fua_write_is_read_back(self, device: BlockDevice) -> None:
        data = pattern(2, device.block_size, 13)
        await awaitable.write(device, 6, data, fua=bool(device.capabilities.fua))
        assert bytes(await awaitable.read(device, 6, 2)) == data

    async def test_unmap_does_what_the_capabilities_say(self, device: BlockDevice) -> None:
        step = device.capabilities.unmap_granularity or 1
        size = device.block_size
        data = pattern(4 * step, size, 14)
        await awaitable.write(device, 0, data)
        if device.capabilities.unmap is Level.NONE:
            with pytest.raises(Unsupported):
                await awaitable.unmap(device, step, step)
            assert bytes(await awaitable.read(device, 0, 4 * step)) == data
            return
        await awaitable.unmap(device, step, step)
        await awaitable.unmap(device, step, 0)
        found = bytes(await awaitable.read(device, 0, 4 * step))
        assert found[: step * size] == data[: step * size]
        assert found[2 * step * size :] == data[2 * step * size :]
        middle = found[step * size : 2 * step * size]
        zeros = bytes(step * size)
        if device.capabilities.unmapped_reads_zero:
            assert middle == zeros
        else:
            assert middle in (zeros, data[step * size : 2 * step * size])

    @pytest.mark.parametrize("seed", [0, 15], ids=["zeros", "pattern"])
    async def test_write_same_repeats_the_pattern(self, device: BlockDevice, seed: int) -> None:
        size = device.block_size
        data = pattern(200, size, 16)
        await awaitable.write(device, 0, data)
        block = pattern(1, size, seed) if seed else bytes(size)
        if device.capabilities.write_same is Level.NONE:
            with pytest.raises(Unsupported):
                await awaitable.write_same(device, 10, 150, block)
            return
        await awaitable.write_same(device, 10, 150, block)
        await awaitable.write_same(device, 3, 0, block)
        expected = data[: 10 * size] + block * 150 + data[160 * size :]
        assert bytes(await awaitable.read(device, 0, 200)) == expected

    async def test_copy_within_the_device_is_whole_or_is_not_done(
        self, device: BlockDevice
    ) -> None:
        size = device.block_size
        before = pattern(256, size, 22)
        await awaitable.write(device, 0, before)
        is_copied = await awaitable.copy_from(device, 150, device, 10, 101)
        after = bytes(await awaitable.read(device, 0, 256))
        if is_copied:
            moved = before[10 * size : 111 * size]
            assert after == before[: 150 * size] + moved + before[251 * size :]
            assert device.held_by(10, 101) is not None
        else:
            assert after == before

    @pytest.mark.parametrize("distance", [-3, 0, 3])
    async def test_copy_onto_itself_is_not_done(self, device: BlockDevice, distance: int) -> None:
        before = pattern(40, device.block_size, 23)
        await awaitable.write(device, 0, before)
        assert not await awaitable.copy_from(device, 10 + distance, device, 10, 20)
        assert bytes(await awaitable.read(device, 0, 40)) == before

    async def test_copy_beyond_the_end_is_not_done(self, device: BlockDevice) -> None:
        last = device.blocks - 1
        assert not await awaitable.copy_from(device, last, device, 0, 2)
        assert not await awaitable.copy_from(device, 0, device, last, 2)
        assert not await awaitable.copy_from(device, 0, device, 1, 0)

    async def test_prefetch_changes_nothing(self, device: BlockDevice) -> None:
        data = pattern(8, device.block_size, 43)
        await awaitable.write(device, 0, data)
        await awaitable.prefetch(device, 0, 8)
        await awaitable.prefetch(device, 7, 0)
        assert bytes(await awaitable.read(device, 0, 8)) == data
        with pytest.raises(OutOfRange):
            await awaitable.prefetch(device, device.blocks - 1, 2)

    async def test_lba_status_covers_the_range_and_calls_written_blocks_mapped(
        self, device: BlockDevice
    ) -> None:
        await awaitable.write(device, 64, pattern(32, device.block_size, 21))
        future: asyncio.Future[list[tuple[int, bool]]] = asyncio.get_running_loop().create_future()

        def done(error: DeviceError | None, runs: Sequence[tuple[int, bool]]) -> None:
            assert error is None
            future.set_result(list(runs))

        device.lba_status(64, 32, done)
        runs = await future
        assert runs
        assert all(blocks > 0 for blocks, _ in runs)
        assert sum(blocks for blocks, _ in runs) <= 32
        assert all(is_mapped for _, is_mapped in runs)
