"""How requests to a device become commands: which ones, and cut where."""

from __future__ import annotations

import pytest

from daiko.backend.lu_facts import LuFacts
from daiko.backend.remote_lu import RemoteLu
from daiko.device import awaitable
from daiko.device.block import Level
from daiko.device.error import DeviceError, MediumFailure, OutOfRange, Unreachable, Unsupported
from daiko.initiator.command import Command
from daiko.scsi.block_data import Capacity, LbaStatus, pack_lba_status, parse_unmap
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sbc import Read10, Read16, Write10, Write16, WriteSame16
from daiko.scsi.sense import invalid_opcode, unrecovered_read_error
from daiko.scsi.vpd import BlockLimits, LogicalBlockProvisioning
from device.suite import pattern


class FakePort:
    """Answers every command at once: reads with the LBA in each block, the rest with GOOD."""

    command_timeout = 5.0

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.status = 0
        self.sense = b""
        self.short = 0
        self.data: bytes | None = None

    def send(self, command: Command) -> None:
        self.sent.append(command)
        data = b""
        if command.read_length and not self.status:
            data = self.data if self.data is not None else bytes(command.read_length - self.short)
            if command.buffer is not None:
                lba = Read10.unpack(command.cdb).lba
                command.buffer[:] = bytes([lba % 251]) * len(command.buffer)
                data = bytes(command.buffer)
        command.end(None, self.status, data, self.sense)

    @property
    def opcodes(self) -> list[int]:
        return [command.cdb[0] for command in self.sent]


class SlowPort(FakePort):
    """Answers a command when it is told to."""

    def send(self, command: Command) -> None:
        self.sent.append(command)

    def answer(self, number: int) -> None:
        self.sent[number].end(None, self.status, b"", b"")


def lu_of(
    port: FakePort, *, blocks: int = 1 << 20, block_size: int = 512, **facts: object
) -> RemoteLu:
    lu = RemoteLu(port, "sd1/0", 0)
    thin = bool(facts.pop("thin", False))
    capacity = Capacity(blocks, block_size, lbpme=thin)
    lu.learn(LuFacts(0, StandardInquiry(), capacity, **facts))  # type: ignore[arg-type]
    return lu


@pytest.mark.parametrize("compares", [True, False], ids=["COMPARE AND WRITE", "ORWRITE"])
def test_commands_that_want_the_same_blocks_alone_are_sent_one_after_the_other(
    compares: bool,
) -> None:
    port = SlowPort()
    lu = lu_of(
        port,
        limits=BlockLimits(max_compare_and_write=8),
        opcodes=frozenset({Opcode.ORWRITE_16, Opcode.COMPARE_AND_WRITE}),
    )
    ended: list[str] = []

    def ask(lba: int, blocks: int, name: str) -> None:
        data = bytes(512 * blocks)

        def done(error: DeviceError | None) -> None:
            ended.append(name if error is None else f"{name} failed")

        if compares:
            lu.compare_and_write(lba, data, data, done)
        else:
            lu.or_write(lba, data, done)

    ask(10, 4, "first")
    ask(13, 4, "overlaps it")
    ask(14, 4, "overlaps the second")
    ask(20, 4, "elsewhere")
    assert len(port.sent) == 2
    port.answer(1)
    assert ended == ["elsewhere"]
    port.status = Status.TASK_ABORTED
    port.answer(0)
    assert len(port.sent) == 3
    port.status = 0
    port.answer(2)
    port.answer(3)
    assert ended == ["elsewhere", "first failed", "overlaps it", "overlaps the second"]


class TestCommands:
    async def test_small_addresses_take_the_10_byte_commands(self) -> None:
        port = FakePort()
        lu = lu_of(port)
        await awaitable.read(lu, 5, 7)
        await awaitable.write(lu, 9, bytes(1024))
        read, write = port.sent
        assert (
            Read10.unpack(read.cdb).lba,
            Read10.unpack(read.cdb).transfer_length,
        ) == (5, 7)
        assert (Write10.unpack(write.cdb).lba, Write10.unpack(write.cdb).transfer_length) == (9, 2)
        assert (read.replay, write.replay) == (True, True)

    @pytest.mark.parametrize(("lba", "opcode"), [(2**32 - 1, 0x28), (2**32, 0x88)])
    async def test_addresses_beyond_32_bits_take_the_16_byte_commands(
        self, lba: int, opcode: int
    ) -> None:
        port = FakePort()
        lu = lu_of(port, blocks=2**33)
        await awaitable.read(lu, lba, 1)
        await awaitable.write(lu, lba, bytes(512))
        assert port.opcodes == [opcode, opcode + 2]
        if opcode == Opcode.READ_16:
            assert Read16.unpack(port.sent[0].cdb).lba == lba
            assert Write16.unpack(port.sent[1].cdb).transfer_length == 1

    async def test_fua_is_a_bit_where_the_unit_takes_it(self) -> None:
        port = FakePort()
        await awaitable.write(lu_of(port, has_fua=True), 0, bytes(512), fua=True)
        assert [command.cdb[1] for command in port.sent] == [0x08]

    async def test_fua_is_a_flush_where_the_unit_does_not(self) -> None:
        port = FakePort()
        await awaitable.write(lu_of(port), 0, bytes(512), fua=True)
        assert port.opcodes == [Opcode.WRITE_10, Opcode.SYNCHRONIZE_CACHE_10]

    async def test_unit_without_synchronize_cache_has_nothing_to_flush(self) -> None:
        port = FakePort()
        port.status, port.sense = Status.CHECK_CONDITION, invalid_opcode().fixed()
        lu = lu_of(port)
        await awaitable.flush(lu)
        await awaitable.flush(lu)
        assert port.opcodes == [Opcode.SYNCHRONIZE_CACHE_10]


class TestLimits:
    async def test_long_requests_are_cut_at_the_unit_s_maximum(self) -> None:
        port = FakePort()
        lu = lu_of(port, limits=BlockLimits(max_transfer=100))
        data = bytes(await awaitable.read(lu, 1000, 250))
        assert [
            (Read10.unpack(command.cdb).lba, Read10.unpack(command.cdb).transfer_length)
            for command in port.sent
        ] == [(1000, 100), (1100, 100), (1200, 50)]
        assert data == b"".join(
            bytes([lba % 251]) * blocks * 512
            for lba, blocks in [(1000, 100), (1100, 100), (1200, 50)]
        )
        port.sent.clear()
        data = pattern(250, 512, 1)
        await awaitable.write(lu, 1000, data)
        assert b"".join(bytes(command.data_out) for command in port.sent) == data
        assert [len(command.data_out) // 512 for command in port.sent] == [100, 100, 50]

    async def test_without_a_maximum_commands_move_a_mebibyte(self) -> None:
        port = FakePort()
        await awaitable.read(lu_of(port, block_size=4096), 0, 1000)
        assert [command.read_length for command in port.sent] == [1 << 20] * 3 + [232 * 4096]

    async def test_write_same_and_unmap_are_cut(self) -> None:
        port = FakePort()
        lu = lu_of(
            port,
            limits=BlockLimits(max_write_same=10, max_unmap=8),
            provisioning=LogicalBlockProvisioning(lbpu=1),
        )
        await awaitable.write_same(lu, 100, 25, bytes(512))
        assert [WriteSame16.unpack(command.cdb).transfer_length for command in port.sent] == [
            10, 10, 5,
        ]  # fmt: skip
        port.sent.clear()
        await awaitable.unmap(lu, 100, 20)
        assert [parse_unmap(command.data_out, 4)[0] for command in port.sent] == [
            (100, 8), (108, 8), (116, 4),
        ]  # fmt: skip

    @pytest.mark.parametrize("block_size", [512, 4096])
    async def test_unit_that_unmaps_by_write_same_alone_is_asked_so(self, block_size: int) -> None:
        port = FakePort()
        lu = lu_of(
            port,
            block_size=block_size,
            limits=BlockLimits(max_write_same=10),
            provisioning=LogicalBlockProvisioning(lbpws=1),
        )
        assert lu.capabilities.unmap is Level.NATIVE
        await awaitable.unmap(lu, 100, 25)
        asked = [WriteSame16.unpack(command.cdb) for command in port.sent]
        assert [(cdb.lba, cdb.transfer_length, cdb.unmap) for cdb in asked] == [
            (100, 10, 1), (110, 10, 1), (120, 5, 1),
        ]  # fmt: skip
        assert {bytes(command.data_out) for command in port.sent} == {bytes(block_size)}
        port.sent.clear()
        await awaitable.write_same(lu, 5, 2, b"x" * block_size)
        assert [WriteSame16.unpack(command.cdb).unmap for command in port.sent] == [0]

    async def test_unit_that_unmaps_by_unmap_is_not_asked_by_write_same(self) -> None:
        port = FakePort()
        lu = lu_of(
            port,
            limits=BlockLimits(max_write_same=10, max_unmap=8),
            provisioning=LogicalBlockProvisioning(lbpu=1, lbpws=1),
        )
        await awaitable.unmap(lu, 100, 5)
        assert port.opcodes == [Opcode.UNMAP]

    async def test_comparison_longer_than_the_unit_takes_is_unsupported(self) -> None:
        port = FakePort()
        lu = lu_of(port, limits=BlockLimits(max_compare_and_write=1))
        await awaitable.compare_and_write(lu, 0, bytes(512), bytes(512))
        assert not port.sent[0].replay
        with pytest.raises(Unsupported, match="1 blocks"):
            await awaitable.compare_and_write(lu, 0, bytes(1024), bytes(1024))

    def test_command_list_counts_more_than_a_page(self) -> None:
        lu = lu_of(
            FakePort(),
            limits=BlockLimits(max_compare_and_write=1, max_write_same=9),
            opcodes=frozenset({Opcode.READ_10}),
        )
        has = lu.capabilities
        assert {has.compare_and_write, has.write_same, has.unmap} == {Level.NONE}


class TestErrors:
    @pytest.mark.parametrize("blocks", [1, 5000], ids=["whole", "in parts"])
    async def test_refused_read_is_named_for_its_cause(self, blocks: int) -> None:
        port = FakePort()
        port.status, port.sense = Status.CHECK_CONDITION, unrecovered_read_error(3).fixed()
        with pytest.raises(MediumFailure) as caught:
            await awaitable.read(lu_of(port), 0, blocks)
        assert caught.value.lba == 3

    async def test_read_with_less_data_than_asked_for_fails(self) -> None:
        port = FakePort()
        port.short = 1
        with pytest.raises(MediumFailure, match="less data"):
            await awaitable.read(lu_of(port), 0, 1)

    async def test_nothing_is_sent_beyond_the_end(self) -> None:
        port = FakePort()
        lu = lu_of(port, blocks=100)
        for operation in (
            awaitable.read(lu, 99, 2),
            awaitable.write(lu, 100, bytes(512)),
            awaitable.unmap(lu, 100, 1),
            awaitable.write_same(lu, 99, 2, bytes(512)),
            awaitable.compare_and_write(lu, 100, bytes(512), bytes(512)),
        ):
            with pytest.raises(OutOfRange):
                await operation
        assert not port.sent

    async def test_withdrawn_unit_is_unreachable_and_says_why(self) -> None:
        port = FakePort()
        lu = lu_of(port)
        lu.withdraw("it is another LU")
        for operation in (
            awaitable.read(lu, 0, 1),
            awaitable.write(lu, 0, bytes(512)),
            awaitable.flush(lu),
            awaitable.unmap(lu, 0, 1),
        ):
            with pytest.raises(Unreachable, match="another LU"):
                await operation
        assert not port.sent


class TestLbaStatus:
    def ask(self, lu: RemoteLu, lba: int, blocks: int) -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []
        lu.lba_status(lba, blocks, lambda error, runs: found.extend(runs))
        return found

    def test_thick_unit_is_not_asked(self) -> None:
        port = FakePort()
        assert self.ask(lu_of(port), 5, 10) == [(10, True)]
        assert not port.sent

    @pytest.mark.parametrize(
        ("descriptors", "expected"),
        [
            ([LbaStatus(100, 8, 0), LbaStatus(108, 92, 1)], [(8, True), (92, False)]),
            ([LbaStatus(64, 64, 1), LbaStatus(128, 900, 2)], [(28, False), (72, True)]),
            ([LbaStatus(0, 50, 1)], [(100, True)]),
            ([LbaStatus(120, 50, 1)], [(100, True)]),
            ([], [(100, True)]),
        ],
        ids=["exact", "wider than asked", "before", "after", "nothing"],
    )
    def test_thin_unit_says_which_are_mapped(
        self, descriptors: list[LbaStatus], expected: list[tuple[int, bool]]
    ) -> None:
        port = FakePort()
        port.data = pack_lba_status(descriptors)
        assert self.ask(lu_of(port, thin=True), 100, 100) == expected

    def test_unit_that_cannot_tell_is_asked_once(self) -> None:
        port = FakePort()
        port.status, port.sense = Status.CHECK_CONDITION, invalid_opcode().fixed()
        lu = lu_of(port, thin=True)
        assert self.ask(lu, 0, 10) == [(10, True)]
        assert self.ask(lu, 0, 10) == [(10, True)]
        assert len(port.sent) == 1
