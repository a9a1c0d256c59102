"""READ, WRITE, VERIFY and their relatives: data, sizes, stable storage, residuals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.backend.memory import MemoryDevice
from daiko.device.block import PrefetchDone
from daiko.device.error import DeviceError, MediumFailure
from daiko.scsi import sbc
from daiko.scsi.layout import Layout
from daiko.scsi.opcode import Status
from target.fake import BareDevice, Host, SlowDevice, host_of, unit_of

READS = [sbc.Read6, sbc.Read10, sbc.Read12, sbc.Read16]
WRITES = [sbc.Write6, sbc.Write10, sbc.Write12, sbc.Write16]
WRITES_AND_VERIFIES = [sbc.WriteAndVerify10, sbc.WriteAndVerify12, sbc.WriteAndVerify16]
VERIFIES = [sbc.Verify10, sbc.Verify12, sbc.Verify16]
INVALID_FIELD = (0x5, 0x24, 0x00)
WRONG_AMOUNT = (0x5, 0x0E, 0x03)
MISCOMPARE = (0xE, 0x1D, 0x00)


def layout_name(layout: Layout) -> str:
    return layout.name


def stored(device: MemoryDevice) -> bytes:
    """All that the device holds."""
    got: list[bytes] = []
    device.read(0, device.blocks, lambda error, data: got.append(bytes(data)))
    return got[0]


def numbered(blocks: int, block_size: int = 512) -> bytes:
    return b"".join((n + 1).to_bytes(2, "big") * (block_size // 2) for n in range(blocks))


@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("read", READS, ids=layout_name)
@pytest.mark.parametrize("write", WRITES + WRITES_AND_VERIFIES, ids=layout_name)
def test_what_one_command_writes_every_other_reads(
    write: Layout, read: Layout, block_size: int
) -> None:
    host = host_of(unit_of(MemoryDevice(64, block_size)))
    data = numbered(5, block_size)
    task = host.run(write.pack(lba=59, transfer_length=5), data)
    assert (task.status, task.fetched) == (Status.GOOD, len(data))
    assert host.run(read.pack(lba=59, transfer_length=5)).data_in == data
    assert (
        host.run(read.pack(lba=61, transfer_length=1)).data_in
        == numbered(3, block_size)[-block_size:]
    )


@pytest.mark.parametrize(("write", "read"), [(sbc.Write6, sbc.Read6)], ids=["6"])
def test_six_byte_commands_with_length_0_move_256_blocks(write: Layout, read: Layout) -> None:
    host = host_of(unit_of())
    data = numbered(256)
    assert host.run(write.pack(lba=3), data).status == Status.GOOD
    assert host.run(read.pack(lba=3)).data_in == data


@pytest.mark.parametrize("layout", WRITES[1:] + WRITES_AND_VERIFIES + VERIFIES, ids=layout_name)
def test_length_0_fetches_nothing_and_is_good(layout: Layout) -> None:
    task = host_of(unit_of()).run(layout.pack(), bytes(512))
    assert (task.status, task.fetched) == (Status.GOOD, None)


@pytest.mark.parametrize("layout", WRITES + WRITES_AND_VERIFIES, ids=layout_name)
@pytest.mark.parametrize(
    ("announced", "condition", "written"),
    [
        pytest.param(0, None, 0, id="nothing announced"),
        pytest.param(512, None, 1, id="one block of two"),
        pytest.param(200, WRONG_AMOUNT, 0, id="part of a block"),
        pytest.param(700, WRONG_AMOUNT, 0, id="a block and a part"),
        pytest.param(1024, None, 2, id="both blocks"),
        pytest.param(2048, None, 2, id="more than both"),
    ],
)
def test_write_with_other_than_the_announced_amount_writes_whole_blocks(
    layout: Layout, announced: int, condition: tuple[int, int, int] | None, written: int
) -> None:
    device = MemoryDevice(8)
    task = host_of(unit_of(device)).run(layout.pack(lba=2, transfer_length=2), b"\xaa" * announced)
    assert task.condition == condition
    assert task.fetched == 1024
    expected = bytes(1024) + b"\xaa" * (512 * written)
    assert stored(device) == expected.ljust(8 * 512, b"\0")


@pytest.mark.parametrize("layout", [*READS[1:], *WRITES[1:]], ids=layout_name)
def test_dpo_is_accepted(layout: Layout) -> None:
    task = host_of(unit_of()).run(layout.pack(dpo=1, transfer_length=1), bytes(512))
    assert task.status == Status.GOOD


@pytest.mark.parametrize("layout", WRITES[1:], ids=layout_name)
def test_write_with_fua_is_on_stable_storage_before_its_status(layout: Layout) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(layout.pack(fua=1, transfer_length=1), bytes(512))
    host.start(layout.pack(transfer_length=1), bytes(512))
    assert device.waiting == ["write fua", "write"]


@pytest.mark.parametrize("layout", READS[1:], ids=layout_name)
def test_read_with_fua_flushes_before_it_reads(layout: Layout) -> None:
    device = SlowDevice()
    task = host_of(unit_of(device)).start(layout.pack(fua=1, transfer_length=1))
    assert device.waiting == ["flush"]
    device.step()
    assert device.waiting == ["read"]
    device.step()
    assert task.status == Status.GOOD


def test_read_with_fua_reports_a_failing_flush() -> None:
    device = SlowDevice()
    task = host_of(unit_of(device)).start(sbc.Read10.pack(fua=1, transfer_length=1))
    device.fail(MediumFailure("x", writing=True))
    assert task.condition == (0x3, 0x0C, 0x00)


class NoFua(SlowDevice):
    def __init__(self) -> None:
        super().__init__()
        self.capabilities = BareDevice().capabilities


def test_write_with_fua_on_a_device_without_it_is_followed_by_a_flush() -> None:
    device = NoFua()
    task = host_of(unit_of(device)).start(sbc.Write10.pack(fua=1, transfer_length=1), bytes(512))
    assert device.waiting == ["write"]
    device.step()
    assert device.waiting == ["flush"]
    assert task.answers == 0
    device.step()
    assert task.status == Status.GOOD


def test_write_and_verify_goes_through_to_the_medium_and_reads_it() -> None:
    device = SlowDevice()
    task = host_of(unit_of(device)).start(sbc.WriteAndVerify10.pack(transfer_length=1), bytes(512))
    seen = []
    while device.waiting:
        seen += device.waiting
        device.step()
    assert seen == ["write fua", "read"]
    assert task.status == Status.GOOD


def test_write_and_verify_with_byte_check_notices_other_data() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = host.start(sbc.WriteAndVerify10.pack(bytchk=1, transfer_length=1), b"a" * 512)
    device.step()
    device.below.write(0, b"a" * 300 + b"b" * 212, lambda error: None)
    device.step()
    assert task.condition == MISCOMPARE
    assert task.sense is not None
    assert task.sense.information == 300


def test_write_and_verify_reports_a_failing_write() -> None:
    device = SlowDevice()
    task = host_of(unit_of(device)).start(sbc.WriteAndVerify10.pack(transfer_length=1), bytes(512))
    device.fail(MediumFailure("x", writing=True))
    assert task.condition == (0x3, 0x0C, 0x00)
    assert device.waiting == []


# ---------------------------------------------------------------------- VERIFY


def prepared() -> Host:
    host = host_of(unit_of())
    host.run(sbc.Write10.pack(lba=4, transfer_length=3), numbered(3))
    return host


@pytest.mark.parametrize("layout", VERIFIES, ids=layout_name)
@pytest.mark.parametrize(
    ("bytchk", "data", "condition", "information"),
    [
        pytest.param(0, b"", None, None, id="readable"),
        pytest.param(1, numbered(3), None, None, id="same data"),
        pytest.param(1, numbered(2) + bytes(512), MISCOMPARE, 1025, id="third block differs"),
        pytest.param(1, b"\xff" + numbered(3)[1:], MISCOMPARE, 0, id="first byte differs"),
        pytest.param(1, numbered(2), WRONG_AMOUNT, None, id="too little data"),
        pytest.param(2, numbered(3), INVALID_FIELD, None, id="reserved BYTCHK"),
        pytest.param(3, numbered(1), MISCOMPARE, 513, id="each block, second differs"),
    ],
)
def test_verify_compares_as_bytchk_says(
    layout: Layout,
    bytchk: int,
    data: bytes,
    condition: tuple[int, int, int] | None,
    information: int | None,
) -> None:
    task = prepared().run(layout.pack(bytchk=bytchk, lba=4, transfer_length=3), data)
    assert task.condition == condition
    if information is not None:
        assert task.sense is not None
        assert task.sense.information == information


def test_verify_each_block_against_one_is_good_when_all_are_equal() -> None:
    host = host_of(unit_of())
    host.run(sbc.Write10.pack(transfer_length=3), b"k" * 1536)
    task = host.run(sbc.Verify16.pack(bytchk=3, transfer_length=3), b"k" * 512)
    assert (task.status, task.fetched) == (Status.GOOD, 512)


@pytest.mark.parametrize("layout", WRITES_AND_VERIFIES, ids=layout_name)
@pytest.mark.parametrize("bytchk", [2, 3])
def test_write_and_verify_knows_only_two_byte_checks(layout: Layout, bytchk: int) -> None:
    task = host_of(unit_of()).run(layout.pack(bytchk=bytchk, transfer_length=1), bytes(512))
    assert task.condition == INVALID_FIELD
    assert task.fetched is None


# ---------------------------------------------------------------------- COMPARE AND WRITE


def test_compare_and_write_writes_when_the_medium_matches() -> None:
    host = prepared()
    new = b"n" * 1024
    task = host.run(sbc.CompareAndWrite.pack(lba=4, transfer_length=2), numbered(2) + new)
    assert task.status == Status.GOOD
    assert host.run(sbc.Read10.pack(lba=4, transfer_length=3)).data_in == new + numbered(3)[1024:]


def test_compare_and_write_miscompare_writes_nothing_and_says_where() -> None:
    host = prepared()
    wrong = numbered(1) + b"\xff" + numbered(2)[513:]
    task = host.run(sbc.CompareAndWrite.pack(lba=4, transfer_length=2), wrong + bytes(1024))
    assert task.condition == MISCOMPARE
    assert task.sense is not None
    assert task.sense.information == 512
    assert host.run(sbc.Read10.pack(lba=4, transfer_length=3)).data_in == numbered(3)


@pytest.mark.parametrize("size", [0, 512, 1023, 1025, 2048])
def test_compare_and_write_with_another_amount_of_data_is_refused(size: int) -> None:
    host = host_of(unit_of())
    task = host.run(sbc.CompareAndWrite.pack(transfer_length=1), bytes(size))
    assert task.condition == INVALID_FIELD
    assert task.fetched is None


def test_compare_and_write_with_fua_flushes_after_it() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = host.start(sbc.CompareAndWrite.pack(fua=1, transfer_length=1), bytes(1024))
    device.step()
    assert device.waiting == ["flush"]
    device.step()
    assert task.status == Status.GOOD


# ---------------------------------------------------------------------- ORWRITE


@pytest.mark.parametrize("has_it", [True, False], ids=["device has it", "read and write"])
def test_orwrite_sets_bits_and_clears_none(has_it: bool) -> None:
    host = host_of(unit_of(None if has_it else BareDevice()))
    host.run(sbc.Write10.pack(lba=4, transfer_length=2), b"\x0f" * 1024)
    task = host.run(sbc.Orwrite16.pack(lba=4, transfer_length=1), b"\x35" * 512)
    assert task.status == Status.GOOD
    found = host.run(sbc.Read10.pack(lba=4, transfer_length=2)).data_in
    assert found == b"\x3f" * 512 + b"\x0f" * 512


@pytest.mark.parametrize("size", [0, 511, 513, 1024])
def test_orwrite_with_another_amount_of_data_is_refused(size: int) -> None:
    task = host_of(unit_of()).run(sbc.Orwrite16.pack(transfer_length=1), bytes(size))
    assert task.condition == WRONG_AMOUNT


def test_orwrite_of_nothing_is_good() -> None:
    assert host_of(unit_of()).run(sbc.Orwrite16.pack(lba=5)).status == Status.GOOD


@pytest.mark.parametrize("has_it", [True, False], ids=["device has it", "read and write"])
def test_orwrite_with_fua_flushes_after_it(has_it: bool) -> None:
    device = SlowDevice(has_atomics=has_it)
    task = host_of(unit_of(device)).start(sbc.Orwrite16.pack(fua=1, transfer_length=1), bytes(512))
    for expected in ["or write"] if has_it else ["read", "write"]:
        assert device.waiting == [expected]
        device.step()
    assert (device.waiting, task.answers) == (["flush"], 0)
    device.step()
    assert task.status == Status.GOOD


# ---------------------------------------------------------------------- PRE-FETCH, READ DEFECT DATA


class Caching(MemoryDevice):
    """Notes what is to be brought into its cache, of four blocks."""

    def __init__(self) -> None:
        super().__init__(32)
        self.asked: list[tuple[int, int]] = []
        self.error: DeviceError | None = None

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        self.asked.append((lba, blocks))
        done(self.error, blocks <= 4)


PREFETCHES = pytest.mark.parametrize("layout", [sbc.Prefetch10, sbc.Prefetch16], ids=layout_name)


@PREFETCHES
@pytest.mark.parametrize(
    ("fields", "asked", "status"),
    [
        pytest.param({"lba": 3, "transfer_length": 4}, (3, 4), Status.CONDITION_MET, id="all fits"),
        pytest.param({"lba": 3, "transfer_length": 5}, (3, 5), Status.GOOD, id="not all fits"),
        pytest.param({"lba": 30}, (30, 2), Status.CONDITION_MET, id="to the end"),
        pytest.param({"immed": 1, "transfer_length": 4}, (0, 4), Status.GOOD, id="immediately"),
    ],
)
def test_prefetch_tells_the_device_and_says_whether_all_fits(
    layout: Layout, fields: dict[str, int], asked: tuple[int, int], status: Status
) -> None:
    device = Caching()
    task = host_of(unit_of(device)).run(layout.pack(**fields))
    assert (device.asked, task.status) == ([asked], status)


@PREFETCHES
def test_prefetch_that_fails_is_reported_unless_the_host_has_its_status(layout: Layout) -> None:
    device = Caching()
    device.error = MediumFailure("bad", writing=False)
    host = host_of(unit_of(device))
    assert host.run(layout.pack(transfer_length=1)).condition == (0x3, 0x11, 0x00)
    assert host.run(layout.pack(immed=1, transfer_length=1)).status == Status.GOOD
    assert host.run("00 00 00 00 00 00").status == Status.GOOD


@pytest.mark.parametrize(
    ("layout", "fields", "answer"),
    [
        pytest.param(sbc.ReadDefectData10, {}, "00 00 00 00", id="10, header only"),
        pytest.param(
            sbc.ReadDefectData10,
            {"req_plist": 1, "req_glist": 1, "format": 5},
            "00 1d 00 00",
            id="10, both lists",
        ),
        pytest.param(
            sbc.ReadDefectData12,
            {"req_glist": 1, "format": 3, "descriptor_index": 7},
            "00 0b 00 00 00 00 00 00",
            id="12, grown list",
        ),
    ],
)
def test_read_defect_data_returns_empty_lists(
    layout: Layout, fields: dict[str, int], answer: str
) -> None:
    host = host_of(unit_of())
    task = host.run(layout.pack(allocation_length=256, **fields))
    assert (task.status, task.data_in) == (Status.GOOD, bytes.fromhex(answer))
    assert host.run(layout.pack(allocation_length=2, **fields)).data_in == bytes.fromhex(answer)[:2]


@pytest.mark.parametrize("layout", [sbc.ReadDefectData10, sbc.ReadDefectData12], ids=layout_name)
@pytest.mark.parametrize("format", [6, 7])
def test_read_defect_data_in_a_format_that_is_none_says_so_with_the_list(
    layout: Layout, format: int
) -> None:
    task = host_of(unit_of()).run(layout.pack(req_plist=1, format=format, allocation_length=64))
    assert task.condition == (0x1, 0x1C, 0x00)
    assert task.data_in[1] == 0x13


# ---------------------------------------------------------------------- the rest


@pytest.mark.parametrize("layout", [sbc.SynchronizeCache10, sbc.SynchronizeCache16])
def test_synchronize_cache_ends_when_the_device_has_flushed(layout: Layout) -> None:
    device = SlowDevice()
    task = host_of(unit_of(device)).start(layout.pack(lba=5, transfer_length=2))
    assert (device.waiting, task.answers) == (["flush"], 0)
    device.step()
    assert task.status == Status.GOOD


def test_synchronize_cache_immediate_fails_later_as_a_deferred_error() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    assert host.run(sbc.SynchronizeCache10.pack(immed=1)).status == Status.GOOD
    device.fail(MediumFailure("x", writing=True))
    task = host.run("00" * 6)
    assert task.condition == (0x3, 0x0C, 0x00)
    assert task.sense is not None
    assert task.sense.deferred
    assert host.run("00" * 6).status == Status.GOOD


def test_read_capacity_says_last_lba_and_block_size() -> None:
    host = host_of(unit_of(MemoryDevice(7, 4096)))
    assert host.run(sbc.ReadCapacity10.pack()).data_in.hex() == "0000000600001000"
    data = host.run(sbc.ReadCapacity16.pack(allocation_length=32)).data_in
    assert data.hex() == "0000000000000006" + "00001000" + "0000" + "c000" + "00" * 16
    assert host.run(sbc.ReadCapacity16.pack(allocation_length=12)).data_in == data[:12]


def test_read_capacity_16_of_a_device_that_cannot_unmap_is_fully_provisioned() -> None:
    host = host_of(unit_of(BareDevice(7)))
    assert host.run(sbc.ReadCapacity16.pack(allocation_length=32)).data_in[14] == 0


class Huge(MemoryDevice):
    def __init__(self) -> None:
        super().__init__(1)
        self.blocks = 1 << 40


def test_read_capacity_10_of_a_large_unit_sends_the_host_to_16() -> None:
    host = host_of(unit_of(Huge()))
    assert host.run(sbc.ReadCapacity10.pack()).data_in[:4] == b"\xff" * 4
    data = host.run(sbc.ReadCapacity16.pack(allocation_length=32)).data_in
    assert int.from_bytes(data[:8], "big") == (1 << 40) - 1


@pytest.mark.parametrize("layout", [sbc.ReadCapacity10, sbc.ReadCapacity16])
def test_read_capacity_takes_an_lba_only_with_pmi(layout: Layout) -> None:
    host = host_of(unit_of())
    assert host.run(layout.pack(lba=1)).condition == INVALID_FIELD
    assert host.run(layout.pack(lba=1, pmi=1)).status == Status.GOOD


@pytest.mark.parametrize(
    ("fields", "condition"),
    [
        pytest.param({"start": 1}, None, id="start"),
        pytest.param({"power_condition": 1}, None, id="active"),
        pytest.param({}, INVALID_FIELD, id="stop"),
        pytest.param({"loej": 1}, INVALID_FIELD, id="eject"),
        pytest.param({"start": 1, "loej": 1}, INVALID_FIELD, id="load"),
        pytest.param({"power_condition": 2}, INVALID_FIELD, id="idle"),
        pytest.param({"power_condition": 3, "start": 1}, INVALID_FIELD, id="standby"),
    ],
)
def test_start_stop_unit_only_starts(
    fields: dict[str, int], condition: tuple[int, int, int] | None
) -> None:
    assert host_of(unit_of()).run(sbc.StartStopUnit.pack(**fields)).condition == condition


@given(
    st.lists(
        st.tuples(
            st.sampled_from(WRITES + WRITES_AND_VERIFIES),
            st.integers(0, 31),
            st.integers(1, 8),
            st.integers(0, 255),
        ),
        max_size=12,
    )
)
def test_any_sequence_of_writes_leaves_what_a_model_holds(
    steps: list[tuple[Layout, int, int, int]],
) -> None:
    device = MemoryDevice(32)
    host = host_of(unit_of(device))
    model = bytearray(32 * 512)
    for layout, lba, blocks, fill in steps:
        data = bytes([fill]) * (512 * blocks)
        task = host.run(layout.pack(lba=lba, transfer_length=blocks), data)
        if lba + blocks > 32:
            assert task.condition == (0x5, 0x21, 0x00)
        else:
            assert task.status == Status.GOOD
            model[lba * 512 : (lba + blocks) * 512] = data
    assert stored(device) == model
