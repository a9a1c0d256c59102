"""The management unit: what it is, and what SITE IN and SITE OUT answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from daiko.command_control.command_table import BY_NAME, ROWS, CommandSet
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi import sense, site, spc, vpd
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import DeviceType, SiteIn, SiteOut, Status
from daiko.scsi.report import parse_all_commands, parse_report_luns
from daiko.scsi.sense import CheckCondition
from daiko.scsi.site_parameters import HEADER_LENGTH, LONGEST_PAGE, Descriptor, Page
from daiko.scsi.site_values import (
    Answer,
    Envelope,
    FunctionCode,
    Greeting,
    KnownCode,
    MappedDevice,
    MappedExtent,
    OfferedVolume,
    PeerCell,
    PeerReach,
    values_of,
)
from daiko.target.access import Access
from daiko.target.commands.site import (
    LONG_ENOUGH,
    PAIRS_AT_WORK,
    ManagementCommands,
    OfferedMapping,
    PairHandler,
)
from daiko.target.logical_unit import LogicalUnit
from daiko.target.management_unit import management_unit
from target.fake import FakeTask, Host, unit_of

INVALID_FIELD = (0x5, 0x24, 0x00)
INVALID_OPCODE = (0x5, 0x20, 0x00)
IN_LIST = (0x5, 0x26, 0x00)
ROOM = 1 << 20
NAA = bytes.fromhex("602da100000000000000000000000001")
SD1, SD2 = DeviceId("sd1", 0), DeviceId("sd2", 3)
CELL = PeerCell("sd1", FunctionCode.DIRECT_BACKUP, Answer.CAN, KnownCode.PROBED, 5, "it said so")
REACH = PeerReach("sd1", "sd2/3", Answer.CANNOT, KnownCode.BY_HAND, 6, "another network")


def device(number: int, name: DeviceId) -> MappedDevice:
    iqn = f"iqn.2026-11.test:{name.backend}"
    return MappedDevice(number, str(name), iqn, name.lun, 1, 512, ("192.0.2.1:3260",))


class FakeOffers:
    """A site that is offered LUN 1, of two extents, and LUN 7, of 20,000."""

    site = "osaka"

    def __init__(self) -> None:
        self.pairs: PairHandler | None = None
        self.tables = {
            1: MappingTable([Extent(0, 8, SD1, 64), Extent(8, 8, SD2, 0)]),
            7: MappingTable([Extent(n, 1, SD1, 2 * n) for n in range(20_000)]),
        }

    def greeting(self, actions_in: int, actions_out: int) -> Greeting:
        return Greeting(bytes(16), "iqn.2026-11.test:us", "0.1", 7, 1, actions_in, actions_out)

    def volumes(self) -> list[OfferedVolume]:
        return [
            OfferedVolume(lun, f"v{lun}", 512, table.blocks, NAA)
            for lun, table in self.tables.items()
        ]

    def is_offered(self, lun: int) -> bool:
        return lun in self.tables

    def mapping(self, lun: int) -> OfferedMapping:
        table = self.tables[lun]
        return OfferedMapping(tuple(map(device, range(9), table.devices)), table)

    def cell(self, lun: int, number: int, function: FunctionCode) -> PeerCell:
        return replace(CELL, controller=self.tables[lun].devices[number].backend, function=function)

    def function_table(self) -> Sequence[PeerCell | PeerReach]:
        return [CELL, REACH]


class Pairing:
    """Keeps what comes; says what it is told to say."""

    def __init__(self) -> None:
        self.received: list[tuple[str, int, Envelope]] = []
        self.says: list[Envelope] = []
        self.failure: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def receive(self, site: str, lun: int, envelope: Envelope) -> None:
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        self.received.append((site, lun, envelope))

    async def answer(self, site: str, lun: int) -> Sequence[Envelope]:
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return self.says


class Rig:
    """A peer that sees the management unit, and a volume at LUN 1."""

    def __init__(self) -> None:
        self.offers = FakeOffers()
        self.commands = ManagementCommands(self.offers)
        self.unit = management_unit("osaka", self.commands, "0" * 32, 0x02DA10)
        access = Access()
        access.publish({"*": {0: self.unit, 1: unit_of()}})
        self.peer = Host(access)

    def page(self, cdb: bytes) -> Page:
        task = self.peer.run(cdb)
        assert task.status == Status.GOOD
        return Page.parse(task.data_in)

    def whole(self, layout: Any, room: int = ROOM, **fields: int) -> list[Any]:
        """All pages of an answer."""
        found: list[Any] = []
        while True:
            page = self.page(
                layout.pack(starting_index=len(found), allocation_length=room, **fields)
            )
            assert page.first == len(found)
            found += values_of(page.descriptors)
            if len(found) == page.total:
                return found
            assert page.descriptors


@pytest.fixture
def rig() -> Rig:
    return Rig()


def pointer(task: FakeTask) -> int | None:
    assert task.sense is not None
    return None if task.sense.field is None else task.sense.field.byte


# --- what the unit is


def test_management_unit_says_that_it_is_a_storage_array_controller(rig: Rig) -> None:
    said = StandardInquiry.parse(rig.peer.run(spc.Inquiry.pack(allocation_length=96)).data_in)
    assert said.device_type == DeviceType.STORAGE_ARRAY_CONTROLLER
    assert (said.vendor, said.product) == ("DAIKO", site.MANAGEMENT_PRODUCT)
    assert (said.tpgs, said.third_party_copy) == (0, False)
    assert said.version_descriptors == (0x00A0, 0x0460, 0x0960)


def test_management_unit_has_three_vpd_pages(rig: Rig) -> None:
    def page(code: int) -> bytes:
        cdb = spc.Inquiry.pack(evpd=1, page_code=code, allocation_length=255)
        task = rig.peer.run(cdb)
        assert task.status == Status.GOOD
        assert task.data_in[0] == DeviceType.STORAGE_ARRAY_CONTROLLER
        return task.data_in

    assert vpd.parse_supported_vpd_pages(page(0x00)) == (0x00, 0x80, 0x83)
    serial = vpd.parse_unit_serial_number(page(0x80))
    shown = vpd.parse_device_identification(page(0x83))
    assert shown[0].is_naa
    assert shown[0].data.hex() == serial
    assert [each.type for each in shown if each.association == 1] == [4, 8]  # no group
    refused = rig.peer.run(spc.Inquiry.pack(evpd=1, page_code=0xB0, allocation_length=255))
    assert refused.condition == INVALID_FIELD


def test_identity_of_the_unit_follows_from_system_and_site() -> None:
    def naa(site_: str, system: str) -> bytes:
        return management_unit(site_, Rig().commands, system, 0x02DA10).identity.naa

    assert naa("osaka", "0" * 32) == naa("osaka", "0" * 32)
    assert len({naa("osaka", "0" * 32), naa("kyoto", "0" * 32), naa("osaka", "1" * 32)}) == 3
    assert naa("osaka", "0" * 32).hex().startswith("602da10")


MANAGEMENT = {
    "TEST_UNIT_READY", "REQUEST_SENSE", "INQUIRY", "REPORT_LUNS",
    "REPORT_SUPPORTED_OPERATION_CODES", "GREET", "VOLUMES", "VOLUME_MAPPING", "ASK_FUNCTION",
    "FUNCTION_TABLE", "PAIR_IN", "PAIR_OUT",
}  # fmt: skip


def test_unit_has_its_commands_and_no_others(rig: Rig) -> None:
    assert {row.name for row in rig.unit.rows} == MANAGEMENT
    cdb = spc.ReportSupportedOperationCodes.pack(allocation_length=4096)
    listed = parse_all_commands(rig.peer.run(cdb).data_in)
    assert {(each.opcode, each.service_action) for each in listed} == {
        (row.opcode, row.service_action) for row in ROWS if row.name in MANAGEMENT
    }


@pytest.mark.parametrize("row", [r for r in ROWS if r.name not in MANAGEMENT], ids=lambda r: r.name)
def test_command_of_a_disk_does_not_exist_at_the_management_unit(row: Any) -> None:
    rig = Rig()
    known = {each.opcode for each in rig.unit.rows}
    expected = INVALID_FIELD if row.opcode in known else INVALID_OPCODE
    assert rig.peer.run(row.layout.pack()).condition == expected


@pytest.mark.parametrize("row", [r for r in ROWS if r.command_set is CommandSet.SITE],
                         ids=lambda r: r.name)  # fmt: skip
def test_site_command_does_not_exist_at_a_disk(row: Any) -> None:
    assert row.name not in {each.name for each in unit_of().rows}
    assert Rig().peer.run(row.layout.pack(), lun=1).condition == INVALID_OPCODE


def test_unit_is_ready_and_reports_the_luns_of_the_peer(rig: Rig) -> None:
    assert rig.peer.run(spc.TestUnitReady.pack()).status == Status.GOOD
    data = rig.peer.run(spc.ReportLuns.pack(allocation_length=64)).data_in
    assert parse_report_luns(data) == (0, 1 << 48)
    told = rig.peer.run(spc.RequestSense.pack(allocation_length=18))
    assert told.status == Status.GOOD


def test_bits_that_mean_nothing_are_refused(rig: Rig) -> None:
    cdb = bytearray(site.Greet.pack(allocation_length=ROOM))
    cdb[2] = 1
    assert rig.peer.run(bytes(cdb)).condition == INVALID_FIELD
    assert rig.peer.run(bytes((0xD4, 0x1F)) + bytes(14)).condition == INVALID_FIELD
    assert rig.peer.run(bytes((0xD5, 0x1F)) + bytes(14)).condition == INVALID_FIELD


# --- what it answers


def test_greeting_says_which_service_actions_there_are(rig: Rig) -> None:
    (greeting,) = values_of(rig.page(site.Greet.pack(allocation_length=ROOM)).descriptors)
    assert greeting == rig.offers.greeting(0b11111, 0)
    rig.offers.pairs = Pairing()
    (greeting,) = values_of(rig.page(site.Greet.pack(allocation_length=ROOM)).descriptors)
    pair_in, pair_out = 1 << SiteIn.PAIR_IN, 1 << SiteOut.PAIR_OUT
    assert greeting == rig.offers.greeting(0b11111 | pair_in, pair_out)


def test_volumes_and_cells_are_what_is_offered(rig: Rig) -> None:
    assert rig.whole(site.Volumes) == rig.offers.volumes()
    assert rig.whole(site.FunctionTable) == [CELL, REACH]


def test_mapping_is_devices_and_then_extents(rig: Rig) -> None:
    assert rig.whole(site.VolumeMapping, lun=1) == [
        device(0, SD1),
        device(1, SD2),
        MappedExtent(0, 0, 8, 64),
        MappedExtent(1, 8, 8, 0),
    ]


@pytest.mark.parametrize("room", [200, 4096, ROOM])
def test_long_mapping_comes_in_pages_whatever_there_is_room_for(room: int) -> None:
    rig = Rig()
    if room < 4096:
        rig.offers.tables[7] = MappingTable([Extent(n, 1, SD1, 2 * n) for n in range(50)])
    extents = rig.whole(site.VolumeMapping, room=room, lun=7)[1:]
    assert extents == [MappedExtent(0, n, 1, 2 * n) for n in range(len(rig.offers.tables[7]))]


def test_page_is_no_longer_than_hosts_can_wait_for(rig: Rig) -> None:
    cdb = site.VolumeMapping.pack(lun=7, allocation_length=0xFFFFFFFF)
    assert HEADER_LENGTH < len(rig.peer.run(cdb).data_in) <= LONG_ENOUGH


@pytest.mark.parametrize("room", [0, 8, HEADER_LENGTH, HEADER_LENGTH + 10])
def test_answer_is_cut_to_the_allocation_length_and_says_how_long_it_is(room: int) -> None:
    task = Rig().peer.run(site.Greet.pack(allocation_length=room))
    whole = Rig().peer.run(site.Greet.pack(allocation_length=ROOM)).data_in
    assert task.status == Status.GOOD
    assert task.data_in == whole[:room]


def test_starting_index_behind_the_end_gives_an_empty_page(rig: Rig) -> None:
    page = rig.page(site.Volumes.pack(starting_index=99, allocation_length=ROOM))
    assert (page.first, page.total, page.descriptors) == (2, 2, ())


def test_generation_changes_with_the_mapping_and_with_nothing_else(rig: Rig) -> None:
    def generation() -> int:
        return rig.page(site.VolumeMapping.pack(lun=1, allocation_length=ROOM)).generation

    first = generation()
    assert first == generation() == Rig().page(
        site.VolumeMapping.pack(lun=1, allocation_length=100)
    ).generation  # fmt: skip
    rig.offers.tables[1] = MappingTable([Extent(0, 8, SD1, 64), Extent(8, 8, SD2, 1)])
    moved = generation()
    rig.offers.tables[1] = MappingTable([Extent(0, 8, SD2, 64), Extent(8, 8, SD1, 0)])
    assert len({first, moved, generation()}) == 3
    rig.offers.tables[1] = MappingTable([Extent(0, 8, SD1, 64), Extent(8, 8, SD2, 0)])
    assert generation() == first
    asked = rig.page(site.AskFunction.pack(lun=1, function=1, allocation_length=ROOM))
    assert asked.generation == first


def test_function_is_asked_of_the_controller_of_a_device(rig: Rig) -> None:
    cdb = site.AskFunction.pack(lun=1, device=1, function=2, allocation_length=ROOM)
    assert values_of(rig.page(cdb).descriptors) == [replace(CELL, controller="sd2", function=2)]


@pytest.mark.parametrize(
    ("cdb", "byte"),
    [
        pytest.param(site.VolumeMapping.pack(lun=2), site.LUN_BYTE, id="mapping"),
        pytest.param(site.VolumeMapping.pack(lun=0), site.LUN_BYTE, id="the unit itself"),
        pytest.param(site.AskFunction.pack(lun=2, function=1), site.LUN_BYTE, id="ask"),
        pytest.param(
            site.AskFunction.pack(lun=1, device=2, function=1), site.DEVICE_BYTE, id="device"
        ),
        pytest.param(site.AskFunction.pack(lun=1, function=0), site.FUNCTION_BYTE, id="function"),
        pytest.param(site.AskFunction.pack(lun=1, function=3), site.FUNCTION_BYTE, id="newer"),
        pytest.param(site.PairIn.pack(), 1, id="pair in, nobody pairs"),
        pytest.param(site.PairOut.pack(), 1, id="pair out, nobody pairs"),
    ],
)
def test_what_is_not_offered_is_refused_with_a_pointer(cdb: bytes, byte: int) -> None:
    task = Rig().peer.run(cdb)
    assert task.condition == INVALID_FIELD
    assert pointer(task) == byte


# --- pairs

ENVELOPE = Envelope(3, 1, b"make a pair of it")


def pair_out(data: bytes, lun: int = 0) -> bytes:
    return site.PairOut.pack(lun=lun, parameter_list_length=len(data))


def listed(*values: Envelope, action: int = SiteOut.PAIR_OUT) -> bytes:
    return Page.of(action, values).pack()


async def ended(rig: Rig, task: FakeTask) -> FakeTask:
    """The task, once the handler of pairs is done with all that there is."""
    if rig.commands._at_work:
        await asyncio.wait(rig.commands._at_work)
    assert task.answers == 1
    return task


@pytest.fixture
def pairing(rig: Rig) -> Pairing:
    rig.offers.pairs = Pairing()
    return rig.offers.pairs


async def test_envelope_goes_to_those_who_pair_volumes(rig: Rig, pairing: Pairing) -> None:
    for lun in (0, 1):
        task = await ended(rig, rig.peer.start(pair_out(listed(ENVELOPE), lun), listed(ENVELOPE)))
        assert task.status == Status.GOOD
    assert pairing.received == [("osaka", 0, ENVELOPE), ("osaka", 1, ENVELOPE)]


async def test_their_answer_comes_in_pages(rig: Rig, pairing: Pairing) -> None:
    pairing.says = [replace(ENVELOPE, contents=bytes(200_000)), ENVELOPE]
    found: list[Any] = []
    while len(found) < 2:
        cdb = site.PairIn.pack(lun=1, starting_index=len(found), allocation_length=ROOM)
        page = Page.parse((await ended(rig, rig.peer.start(cdb))).data_in)
        assert page.first == len(found)
        found += values_of(page.descriptors)
    assert found == pairing.says


@pytest.mark.parametrize(
    ("data", "condition", "byte"),
    [
        pytest.param(b"nonsense", IN_LIST, 0, id="no page"),
        pytest.param(listed(), IN_LIST, 0, id="no envelope"),
        pytest.param(listed(ENVELOPE, ENVELOPE), IN_LIST, 0, id="two"),
        pytest.param(listed(ENVELOPE, action=0), IN_LIST, 0, id="of another command"),
        pytest.param(
            Page(SiteOut.PAIR_OUT, (Descriptor(1, bytes(60)),), 1).pack(), IN_LIST, 0, id="greeting"
        ),
        pytest.param(listed(ENVELOPE)[:-1], IN_LIST, 0, id="cut short"),
        pytest.param(
            Page(SiteOut.PAIR_OUT, (), 0, version=(2, 0)).pack(), IN_LIST, 8, id="another version"
        ),
    ],
)
async def test_list_that_is_none_is_refused(
    data: bytes, condition: tuple[int, int, int], byte: int
) -> None:
    rig = Rig()
    rig.offers.pairs = Pairing()
    task = rig.peer.run(pair_out(data), data)
    assert task.condition == condition
    assert pointer(task) == byte


async def test_pair_commands_are_bounded(rig: Rig, pairing: Pairing) -> None:
    too_long = rig.peer.run(site.PairOut.pack(parameter_list_length=LONGEST_PAGE + 1))
    assert (too_long.condition, pointer(too_long)) == (INVALID_FIELD, site.LENGTH_BYTE)
    assert rig.peer.run(site.PairOut.pack()).status == Status.GOOD
    assert pairing.received == []
    for lun, data in ((2, listed(ENVELOPE)), (2, b"")):
        task = rig.peer.run(pair_out(data, lun), data)
        assert (task.condition, pointer(task)) == (INVALID_FIELD, site.LUN_BYTE)
    pairing.go_on.clear()
    at_work = [rig.peer.start(site.PairIn.pack(allocation_length=64)) for _ in range(PAIRS_AT_WORK)]
    assert rig.peer.run(site.PairIn.pack(allocation_length=64)).status == Status.BUSY
    pairing.go_on.set()
    for task in at_work:
        assert (await ended(rig, task)).status == Status.GOOD


async def test_refusal_of_the_handler_reaches_the_peer(rig: Rig, pairing: Pairing) -> None:
    pairing.failure = CheckCondition(sense.operation_in_progress())
    for task in (
        rig.peer.start(pair_out(listed(ENVELOPE)), listed(ENVELOPE)),
        rig.peer.start(site.PairIn.pack(allocation_length=64)),
    ):
        assert (await ended(rig, task)).condition == (0x5, 0x00, 0x16)


async def test_failure_of_the_handler_ends_the_command_and_nothing_else(
    rig: Rig, pairing: Pairing
) -> None:
    pairing.failure = RuntimeError("a defect")
    task = await ended(rig, rig.peer.start(site.PairIn.pack(allocation_length=64)))
    assert task.condition == (0x4, 0x44, 0x00)
    assert rig.peer.run(site.Greet.pack(allocation_length=64)).status == Status.GOOD


async def test_pair_commands_at_work_end_when_the_site_is_gone(rig: Rig, pairing: Pairing) -> None:
    pairing.go_on.clear()
    task = rig.peer.start(site.PairIn.pack(allocation_length=64))
    rig.commands.stop()
    assert (await ended(rig, task)).status == Status.CHECK_CONDITION


def test_each_site_row_is_served_only_where_a_site_is(rig: Rig) -> None:
    names = {row.name for row in BY_NAME.values() if row.command_set is CommandSet.SITE}
    assert names <= {row.name for row in rig.unit.rows}
    assert isinstance(rig.unit, LogicalUnit)
    assert rig.unit.blocks == 0


@pytest.mark.parametrize("row", [r for r in ROWS if r.command_set is CommandSet.SITE],
                         ids=lambda r: r.name)  # fmt: skip
def test_each_bit_that_a_site_command_does_not_have_is_refused_with_a_pointer(row: Any) -> None:
    rig = Rig()
    mask = row.layout.mask
    for byte in range(1, row.layout.length):
        for bit in range(8):
            if mask[byte] >> bit & 1 or (byte == 1 and bit < 5):
                continue
            cdb = bytearray(row.layout.pack())
            cdb[byte] |= 1 << bit
            task = rig.peer.run(bytes(cdb))
            assert task.condition == INVALID_FIELD
            assert task.sense is not None
            assert task.sense.field is not None
            assert (task.sense.field.byte, task.sense.field.bit) == (byte, bit)
