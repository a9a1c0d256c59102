"""What a unit says of itself, and what the target says where there is no unit."""

from __future__ import annotations

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.command_control.command_table import BY_NAME
from daiko.scsi import spc, vpd
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import Status
from daiko.scsi.report import (
    CommandTimeouts,
    SupportedCommand,
    lun_field,
    parse_all_commands,
    parse_one_command,
    parse_report_luns,
)
from daiko.scsi.sense import parse_sense
from daiko.scsi.target_page import (
    parse_management_addresses,
    parse_mode_page_policy,
    parse_scsi_ports,
)
from daiko.scsi.vpd import PageCode
from daiko.target.access import Access
from daiko.target.asymmetric_access import TargetPortGroups
from daiko.target.event import Event
from daiko.target.management import ManagementAddresses
from daiko.target.mode_settings import ROWS as MODE_PAGES
from target.fake import NAA, BareDevice, FakeTask, Host, ThinMemory, host_of, unit_of
from target.test_logical_unit import CopyManager

INVALID_FIELD = (0x5, 0x24, 0x00)
NO_UNIT = (0x5, 0x25, 0x00)


def inquire(host: Host, page: int | None = None, *, lun: int = 0, room: int = 255) -> FakeTask:
    cdb = spc.Inquiry.pack(evpd=page is not None, page_code=page or 0, allocation_length=room)
    return host.run(cdb, lun=lun)


# ---------------------------------------------------------------------- INQUIRY


def test_standard_inquiry() -> None:
    data = inquire(host_of(unit_of())).data_in
    got = StandardInquiry.parse(data)
    assert (got.vendor, got.product, got.revision) == ("DAIKO", "VIRTUAL LU", "0001")
    assert (got.version, got.cmdque, got.tpgs, got.third_party_copy) == (6, True, 3, False)
    assert got.version_descriptors == (0x00A0, 0x0460, 0x04C0, 0x0600, 0x0960)
    assert len(data) == 96
    assert data[3] & 0x0F == 2


def test_standard_inquiry_says_3pc_with_a_copy_manager() -> None:
    data = inquire(host_of(unit_of(third_party_copy=CopyManager()))).data_in
    assert StandardInquiry.parse(data).third_party_copy


@pytest.mark.parametrize("room", [0, 5, 36, 96])
def test_inquiry_is_cut_to_the_allocation_length(room: int) -> None:
    assert len(inquire(host_of(unit_of()), room=room).data_in) == room


@pytest.mark.parametrize("urls", [(), ("https://daiko.example.com",)], ids=["no URL", "URL"])
def test_supported_pages_are_exactly_those_that_are_answered(urls: tuple[str, ...]) -> None:
    for manager in (None, CopyManager()):
        management = ManagementAddresses(urls)
        host = host_of(unit_of(third_party_copy=manager, management=management))
        listed = vpd.parse_supported_vpd_pages(inquire(host, 0).data_in)
        answered = [page for page in range(256) if inquire(host, page).status == Status.GOOD]
        assert list(listed) == answered
        assert (PageCode.THIRD_PARTY_COPY in listed) is (manager is not None)
        assert (PageCode.MANAGEMENT_NETWORK_ADDRESSES in listed) is bool(urls)
        assert list(listed) == sorted(listed)
        for page in listed:
            assert inquire(host, page).data_in[1] == page


def test_unknown_page_is_an_invalid_field() -> None:
    assert inquire(host_of(unit_of()), 0xC0).condition == INVALID_FIELD


def test_page_code_without_evpd_is_an_invalid_field() -> None:
    assert host_of(unit_of()).run(spc.Inquiry.pack(page_code=0x83)).condition == INVALID_FIELD


def test_serial_number_and_designators_come_from_the_identity() -> None:
    host = host_of(unit_of())
    assert vpd.parse_unit_serial_number(inquire(host, 0x80).data_in) == NAA.hex()
    designators = vpd.parse_device_identification(inquire(host, 0x83).data_in)
    assert designators[0].data == NAA
    assert designators[0].is_naa
    assert designators[1].data == b"DAIKO   " + NAA.hex().encode()
    names = [each.text for each in designators]
    assert any("iqn.2026-11.test:target,t,0x0001" in name for name in names)
    assert [each.association for each in designators] == [0, 0, 1, 1, 1, 2]


def test_two_paths_to_a_unit_show_one_identity() -> None:
    access = Access()
    unit = unit_of()
    access.publish({"*": {0: unit, 7: unit}})
    host = Host(access)
    assert inquire(host, 0x83).data_in == inquire(host, 0x83, lun=7).data_in


@pytest.mark.parametrize("block_size", [512, 4096])
def test_block_limits_state_what_is_enforced(block_size: int) -> None:
    unit = unit_of(MemoryDevice(100_000, block_size))
    page = vpd.BlockLimits.parse(inquire(host_of(unit), 0xB0).data_in)
    assert page.max_transfer == unit.maximum_transfer == (8 << 20) // block_size
    assert page.max_compare_and_write == 255
    assert page.max_unmap == 0xFFFFFFFF
    assert page.max_unmap_descriptors == 256
    assert page.max_write_same == 0x8000
    assert page.wsnz == 0
    assert page.optimal_transfer == (1 << 20) // block_size


def test_bare_device_states_no_optional_operation() -> None:
    host = host_of(unit_of(BareDevice()))
    page = vpd.BlockLimits.parse(inquire(host, 0xB0).data_in)
    assert (page.max_unmap, page.max_write_same) == (0, 0)
    assert page.max_compare_and_write == 255  # made of reads and writes
    provisioning = vpd.LogicalBlockProvisioning.parse(inquire(host, 0xB2).data_in)
    assert (provisioning.lbpu, provisioning.lbpws, provisioning.lbprz) == (0, 0, 0)
    assert provisioning.provisioning_type == 0


def test_thin_device_states_its_provisioning() -> None:
    page = vpd.LogicalBlockProvisioning.parse(inquire(host_of(unit_of()), 0xB2).data_in)
    assert (page.lbpu, page.lbpws, page.lbpws10, page.lbprz) == (1, 1, 1, 1)
    assert page.provisioning_type == vpd.ProvisioningType.THIN


def test_extended_inquiry_states_the_task_attributes() -> None:
    page = vpd.ExtendedInquiry.parse(inquire(host_of(unit_of()), 0x86).data_in)
    assert page == vpd.ExtendedInquiry(
        headsup=1, ordsup=1, simpsup=1, v_sup=1, luiclr=1, maximum_sense_length=252
    )


def test_management_addresses_are_those_of_the_target() -> None:
    unit = unit_of(management=ManagementAddresses(("https://a.example", "http://b.example:80")))
    page = parse_management_addresses(inquire(host_of(unit), 0x85).data_in)
    assert page == ((2, 1, "https://a.example"), (2, 1, "http://b.example:80"))


def test_mode_page_policy_names_every_page_as_shared() -> None:
    host = host_of(unit_of(ThinMemory()))
    page = parse_mode_page_policy(inquire(host, 0x87).data_in)
    assert page == tuple((*row.key, 0) for row in MODE_PAGES)


def test_scsi_ports_are_all_ports_of_the_target_with_their_names() -> None:
    groups = TargetPortGroups()
    groups.replace({2: 1, 1: 1, 9: 4}, {})
    unit = unit_of(port_groups=groups)
    page = parse_scsi_ports(inquire(host_of(unit), 0x88).data_in)
    assert [(port, [each.text for each in names]) for port, names in page] == [
        (port, [f"iqn.2026-11.test:target,t,0x{port:04x}"]) for port in (1, 2, 9)
    ]
    assert all(each.association == 1 for _, names in page for each in names)


def test_block_device_characteristics_say_no_moving_parts() -> None:
    page = vpd.BlockDeviceCharacteristics.parse(inquire(host_of(unit_of()), 0xB1).data_in)
    assert page.rotation_rate == 1


# ---------------------------------------------------------------------- sense, LUNs, groups


@pytest.mark.parametrize(("desc", "code"), [(0, 0x70), (1, 0x72)])
def test_request_sense_returns_what_is_pending_then_nothing(desc: int, code: int) -> None:
    unit = unit_of()
    host = host_of(unit)
    unit.announce(Event.CAPACITY_CHANGED)
    cdb = spc.RequestSense.pack(desc=desc, allocation_length=252)
    first, second = host.run(cdb), host.run(cdb)
    assert first.data_in[0] & 0x7F == code
    pending = parse_sense(first.data_in)
    assert (pending.key, pending.asc, pending.ascq) == (0x6, 0x2A, 0x09)
    assert parse_sense(second.data_in).key == 0
    assert len(host.run(spc.RequestSense.pack(allocation_length=4)).data_in) == 4


def several() -> tuple[Access, Host]:
    access = Access()
    access.publish({"*": {lun: unit_of() for lun in (0, 3, 255, 256, 16383)}})
    return access, Host(access)


@pytest.mark.parametrize(
    ("select", "luns"),
    [
        (0x00, [0, 3, 255, 256, 16383]),
        (0x01, []),
        (0x02, [0, 3, 255, 256, 16383]),
        (0x10, []),
        (0x11, [0, 3, 255, 256, 16383]),
    ],
)
def test_report_luns_lists_what_the_host_sees(select: int, luns: list[int]) -> None:
    _, host = several()
    task = host.run(spc.ReportLuns.pack(select_report=select, allocation_length=4096))
    assert parse_report_luns(task.data_in) == tuple(map(lun_field, luns))


@pytest.mark.parametrize(
    "fields",
    [
        {"select_report": 3, "allocation_length": 64},
        {"select_report": 0x12, "allocation_length": 64},
        {"allocation_length": 15},
    ],
    ids=["unknown selection", "units of an administrative unit", "no room for one entry"],
)
def test_report_luns_refuses(fields: dict[str, int]) -> None:
    assert several()[1].run(spc.ReportLuns.pack(**fields)).condition == INVALID_FIELD


def test_report_luns_cut_keeps_the_whole_length_in_its_header() -> None:
    data = several()[1].run(spc.ReportLuns.pack(allocation_length=16)).data_in
    assert (len(data), int.from_bytes(data[:4], "big")) == (16, 40)


def test_report_luns_clears_the_news_that_they_changed() -> None:
    access, host = several()
    access.publish({"*": {0: host.nexus.units[0].unit}})
    host.run(spc.ReportLuns.pack(allocation_length=64))
    assert host.run("00" * 6).status == Status.GOOD


# ---------------------------------------------------------------------- supported commands


def ask(host: Host, **fields: int) -> FakeTask:
    return host.run(spc.ReportSupportedOperationCodes.pack(allocation_length=4096, **fields))


@pytest.mark.parametrize("timeouts", [0, 1])
@pytest.mark.parametrize("device", [MemoryDevice(64), BareDevice(64)], ids=["all", "bare"])
def test_all_commands_are_those_of_the_table_that_the_unit_has(
    device: MemoryDevice, timeouts: int
) -> None:
    unit = unit_of(device)
    listed = parse_all_commands(ask(host_of(unit), rctd=timeouts).data_in)
    rows = {
        SupportedCommand(
            row.opcode, row.service_action, row.layout.length, row.timeouts if timeouts else None
        )
        for row in unit.rows
    }
    assert set(listed) == rows
    assert len(listed) == len(rows)


def test_each_command_alone_comes_with_its_mask() -> None:
    unit = unit_of(third_party_copy=CopyManager())
    host = host_of(unit)
    for row in unit.rows:
        fields = {"requested_opcode": row.opcode}
        fields["requested_service_action"] = row.service_action or 0
        option = 1 if row.service_action is None else 2
        for each in (option, 3):
            data = ask(host, reporting_options=each, **fields).data_in
            assert parse_one_command(data) == (3, row.layout.mask), row.name
        wrong = ask(host, reporting_options=3 - option, **fields)
        assert wrong.condition == INVALID_FIELD, row.name


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"reporting_options": 1, "requested_opcode": 0x05}, id="opcode"),
        pytest.param({"reporting_options": 3, "requested_opcode": 0xFF}, id="opcode, either"),
        pytest.param(
            {"reporting_options": 2, "requested_opcode": 0x9E, "requested_service_action": 0x1F},
            id="service action",
        ),
        pytest.param(
            {"reporting_options": 3, "requested_opcode": 0x28, "requested_service_action": 1},
            id="service action of an opcode without",
        ),
        pytest.param(
            {"reporting_options": 2, "requested_opcode": 0x83, "requested_service_action": 0},
            id="copy without a copy manager",
        ),
    ],
)
def test_command_that_there_is_not_is_reported_as_such(fields: dict[str, int]) -> None:
    assert parse_one_command(ask(host_of(unit_of()), **fields).data_in) == (1, b"")


def test_unknown_reporting_option_is_refused() -> None:
    assert ask(host_of(unit_of()), reporting_options=4).condition == INVALID_FIELD


def test_one_command_with_timeouts_has_a_descriptor() -> None:
    data = ask(host_of(unit_of()), reporting_options=1, requested_opcode=0x2A, rctd=1).data_in
    assert data[1] & 0x80
    assert len(data) == 4 + 10 + 12
    assert CommandTimeouts.parse(data, 14) == BY_NAME["WRITE_10"].timeouts


@pytest.mark.parametrize(("repd", "length"), [(0, 4), (1, 16)])
def test_task_management_functions_are_all_supported(repd: int, length: int) -> None:
    cdb = spc.ReportSupportedTaskManagementFunctions.pack(repd=repd, allocation_length=64)
    data = host_of(unit_of()).run(cdb).data_in
    assert (len(data), data[0], data[1]) == (length, 0xFE, 0x07)
    assert data[4:].hex() in ("", "010024060000025800000032")
    short = spc.ReportSupportedTaskManagementFunctions.pack(allocation_length=3)
    assert host_of(unit_of()).run(short).condition == INVALID_FIELD


# ---------------------------------------------------------------------- no unit there


def test_inquiry_of_nothing_says_that_there_is_nothing() -> None:
    data = inquire(host_of(unit_of()), lun=9).data_in
    assert data[0] == 0x7F
    assert StandardInquiry.parse(data).vendor == "DAIKO"


def test_page_of_nothing_is_refused() -> None:
    assert inquire(host_of(unit_of()), 0x83, lun=9).condition == INVALID_FIELD


def test_request_sense_of_nothing_returns_the_reason() -> None:
    task = host_of(unit_of()).run(spc.RequestSense.pack(allocation_length=252), lun=9)
    assert task.status == Status.GOOD
    got = parse_sense(task.data_in)
    assert (got.key, got.asc, got.ascq) == NO_UNIT


def test_report_luns_to_nothing_lists_what_there_is() -> None:
    task = host_of(unit_of()).run(spc.ReportLuns.pack(allocation_length=64), lun=9)
    assert parse_report_luns(task.data_in) == (0,)


def test_report_luns_of_a_host_that_sees_nothing_is_empty() -> None:
    access = Access()
    access.publish({"*": {}})
    task = Host(access).run(spc.ReportLuns.pack(allocation_length=64))
    assert parse_report_luns(task.data_in) == ()


@pytest.mark.parametrize(
    "cdb",
    ["00" * 6, "28" + "00" * 9, "2a" + "00" * 9, "83" + "00" * 15, "ff" + "00" * 15],
    ids=["test unit ready", "read", "write", "extended copy", "unknown"],
)
def test_any_other_command_to_nothing_ends_with_unit_not_supported(cdb: str) -> None:
    assert host_of(unit_of()).run(cdb, lun=9).condition == NO_UNIT


@pytest.mark.parametrize(
    ("cdb", "condition"),
    [("12020000ff00", INVALID_FIELD), ("a0" + "00" * 11, INVALID_FIELD)],
    ids=["reserved bit", "no room"],
)
def test_malformed_command_to_nothing_is_refused(cdb: str, condition: tuple[int, int, int]) -> None:
    assert host_of(unit_of()).run(cdb, lun=9).condition == condition
