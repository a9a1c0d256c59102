"""Second commands: the same structure on the bytes, the limits kept, every block exactly once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_control.situation import DAIKO, LIO, SCST, TCMU, address, directory, naa, second
from daiko.command_control.function_table import LEAST_LIMITS, CopyLimits
from daiko.command_control.generation import (
    COMMAND_BYTES,
    Cover,
    DeviceAddress,
    SecondCommand,
    alias_for,
    cscd_for,
    generate,
)
from daiko.command_control.naming import Form, Naming, Unnameable, name_for
from daiko.command_control.plan import THIS_CONTROLLER, Step
from daiko.mapping.extent import DeviceId, Piece
from daiko.scsi.alias import AliasFormat
from daiko.scsi.copy_parameters import ExtendedCopy, ListIdUsage, parse_extended_copy
from daiko.scsi.cscd import (
    RECEIVING_LOGICAL_UNIT,
    AliasCscd,
    IdentificationCscd,
    Ipv4Cscd,
    Ipv6Cscd,
)
from daiko.scsi.report import lun_field
from daiko.scsi.segment import BlockToBlock, VerifyCscd
from daiko.scsi.vpd import Designator
from scsi.golden import golden

L0, L1, L2, VAULT = (DeviceId.parse(text) for text in ("sd1/0", "sd1/1", "sd1/2", "vault/0"))
ALL = directory(*map(address, (L0, L1, L2, VAULT)))

ALPHA = Designator.naa(bytes.fromhex("602da10" + "0" * 24 + "1"))
OTHER = Designator.naa(bytes.fromhex("602da10" + "0" * 24 + "2"))


def step(source: Piece, destination: Piece, segment: int = 0) -> Step:
    return Step(source, destination, second("sd1"), "", (), segment)


def run(
    source: DeviceId, lba: int, destination: DeviceId, at: int, blocks: int, segment: int = 0
) -> Step:
    return step(Piece(source, lba, blocks), Piece(destination, at, blocks), segment)


def commands(
    steps: list[Step],
    limits: CopyLimits = LIO,
    template: ExtendedCopy | None = None,
    *,
    devices: dict[DeviceId, DeviceAddress] | None = None,
    command_bytes: int = COMMAND_BYTES,
    most_bytes: int | None = None,
) -> list[SecondCommand]:
    return list(
        generate(
            steps,
            devices or ALL,
            limits,
            template,
            command_bytes=command_bytes,
            most_bytes=most_bytes,
        )
    )


# --- the bytes -----------------------------------------------------------------------------------


def test_without_a_hosts_command_the_form_that_all_take_is_made() -> None:
    (command,) = commands([run(L0, 0x1000, L1, 0x2000, 2048)])
    assert command.cdb == bytes.fromhex("83000000000000000000 0000006c 0000")
    assert command.parameter_list == bytes.fromhex(
        "00 18 00 40 00000000 0000001c 00000000"
        "e4 00 0000 01 03 00 10" + naa(L0)[4:].hex() + "00000000 00 000200"
        "e4 00 0000 01 03 00 10" + naa(L1)[4:].hex() + "00000000 00 000200"
        "02 00 0018 0000 0001 0000 0800 0000000000001000 0000000000002000"
    )
    assert (command.backend, command.lun, command.aliases) == ("sd1", 0, ())
    assert command.covers == (Cover(0, 0, 2048),)
    assert not command.needs_list_id


# What a host may send: with its fields in every state that a second command must keep. Reserved
# bits are set where parsing lets them pass, to see that they survive.
def host_command(
    *,
    list_id: int = 7,
    usage: ListIdUsage = ListIdUsage.DISCARD,
    source: int = 0,
    destination: int = 1,
    segments: int = 1,
) -> ExtendedCopy:
    data = bytearray(
        ExtendedCopy(
            list_id,
            usage,
            (
                IdentificationCscd(ALPHA, block_length=512, pad=True),
                IdentificationCscd(OTHER),
            ),
            tuple(
                BlockToBlock(source, destination, 100, 5000 + 200 * n, 9000 + 200 * n, dc=True)
                for n in range(segments)
            ),
            striped=True,
            priority=3,
        ).pack()
    )
    data[4] = 0xA5  # header, reserved
    data[16 + 6] = 0x5A  # first CSCD, reserved
    data[16 + 64 + 8] = 0x11  # first segment, reserved
    return parse_extended_copy(data)


def changed_bytes(one: bytes, other: bytes) -> set[int]:
    assert len(one) == len(other)
    return {at for at, (a, b) in enumerate(zip(one, other, strict=True)) if a != b}


HEADER, FIRST, SECOND, SEGMENT = 0, 16, 48, 80
LIST_ID = {0}
DESIGNATORS = {*range(FIRST + 8, FIRST + 28), *range(SECOND + 8, SECOND + 28)}
LBAS = set(range(SEGMENT + 12, SEGMENT + 28))


@pytest.mark.parametrize("limits", [LIO, DAIKO], ids=["lio", "daiko"])
@pytest.mark.parametrize(
    ("usage", "list_id"),
    [
        (ListIdUsage.DISABLE, 0),
        (ListIdUsage.DISCARD, 7),
        (ListIdUsage.HOLD, 255),
    ],
)
@pytest.mark.parametrize(("source", "destination"), [(0, 1), (1, 0)])
def test_second_command_differs_only_in_identifiers_addresses_and_list_id(
    limits: CopyLimits, usage: ListIdUsage, list_id: int, source: int, destination: int
) -> None:
    host = host_command(list_id=list_id, usage=usage, source=source, destination=destination)
    (command,) = commands([run(L0, 77, L1, 88, 100)], limits, host)
    sent = command.with_list_id(42 if command.needs_list_id else 0)
    assert changed_bytes(host.pack(), sent) <= LIST_ID | DESIGNATORS | LBAS
    parsed = parse_extended_copy(sent)
    segment = parsed.segments[0]
    assert isinstance(segment, BlockToBlock)
    assert (segment.source_lba, segment.destination_lba) == (77, 88)
    assert identifier(parsed, segment.source) == naa(L0)
    assert identifier(parsed, segment.destination) == naa(L1)
    assert parsed.list_id == (0 if usage is ListIdUsage.DISABLE else 42)


@pytest.mark.parametrize("name", ["extended_copy_sg_xcopy", "extended_copy_two_naa"])
def test_second_command_of_a_captured_one_differs_only_there_too(name: str) -> None:
    captured = golden(name)
    host = parse_extended_copy(captured)
    (asked,) = copies(host)
    (command,) = commands([run(L0, 0x55AA55, L1, 0xAA55AA, asked.blocks)], LIO, host)
    sent = command.with_list_id(0xEE if command.needs_list_id else 0)
    assert changed_bytes(captured, sent) <= LIST_ID | DESIGNATORS | LBAS
    assert int.from_bytes(command.cdb[10:14], "big") == len(captured)


def identifier(parsed: ExtendedCopy, cscd_id: int) -> bytes:
    cscd = parsed.cscd(cscd_id)
    assert isinstance(cscd, IdentificationCscd)
    return bytes((cscd.designator.code_set, cscd.designator.type, 0, 16)) + cscd.designator.data


def test_host_command_of_many_segments_stays_one_where_the_limits_allow() -> None:
    host = host_command(segments=3)
    steps = [run(L0, 10 + 200 * n, L1, 20 + 200 * n, 100, n) for n in range(3)]
    (command,) = commands(steps, DAIKO, host)
    lbas = {at + 28 * n for n in range(3) for at in LBAS}
    assert changed_bytes(host.pack(), command.parameter_list) <= LIST_ID | DESIGNATORS | lbas
    assert command.covers == (Cover(0, 0, 100), Cover(1, 0, 100), Cover(2, 0, 100))


def test_host_command_that_names_by_alias_keeps_the_size_and_what_stands_beside_the_name() -> None:
    host = ExtendedCopy(
        0,
        ListIdUsage.DISABLE,
        (AliasCscd(1 << 48, 99, pad=True, block_length=512), IdentificationCscd(OTHER)),
        (BlockToBlock(0, 1, 8, 0, 0),),
    )
    (command,) = commands([run(L0, 0, VAULT, 0, 8)], DAIKO, host)
    source, destination = parse_extended_copy(command.parameter_list).cscds
    assert isinstance(source, IdentificationCscd)
    assert (source.pad, source.block_length) == (True, 512)
    assert isinstance(destination, AliasCscd)
    assert len(command.parameter_list) == len(host.pack())


def test_receiving_lu_is_spelled_out_after_the_hosts_own() -> None:
    host = ExtendedCopy(
        0,
        ListIdUsage.DISABLE,
        (IdentificationCscd(OTHER),),
        (BlockToBlock(RECEIVING_LOGICAL_UNIT, 0, 8, 0, 0),),
    )
    (command,) = commands([run(L0, 0, L1, 0, 8)], LIO, host)
    sent = parse_extended_copy(command.parameter_list)
    assert [identifier(sent, cscd_id) for cscd_id in sent.cscd_ids] == [naa(L1), naa(L0)]
    segment = sent.segments[0]
    assert isinstance(segment, BlockToBlock)
    assert (segment.source, segment.destination) == (1, 0)


def test_cscds_that_no_segment_uses_are_left_out() -> None:
    host = replace(host_command(), cscds=(IdentificationCscd(OTHER), *host_command().cscds))
    host = replace(host, segments=(BlockToBlock(1, 2, 8, 0, 0),))
    (command,) = commands([run(L0, 0, L1, 0, 8)], LIO, host)
    assert len(parse_extended_copy(command.parameter_list).cscds) == 2


def test_inline_data_of_the_host_stays_here() -> None:
    host = replace(host_command(), inline=bytes(8))
    (command,) = commands([run(L0, 0, L1, 0, 8)], LIO, host)
    assert parse_extended_copy(command.parameter_list).inline == b""
    assert len(command.parameter_list) == len(host.pack()) - 8


def test_one_cscd_for_both_sides_stays_one_inside_one_lu() -> None:
    host = ExtendedCopy(
        0, ListIdUsage.DISABLE, (IdentificationCscd(ALPHA),), (BlockToBlock(0, 0, 8, 0, 100),)
    )
    (command,) = commands([run(L0, 0, L0, 100, 8)], LIO, host)
    assert len(parse_extended_copy(command.parameter_list).cscds) == 1
    (command,) = commands([run(L0, 0, L1, 100, 8)], LIO, host)
    assert len(parse_extended_copy(command.parameter_list).cscds) == 2


def test_segment_that_copies_nothing_is_no_template_for_a_step() -> None:
    host = replace(host_command(), segments=(VerifyCscd(0),))
    with pytest.raises(ValueError, match="segment 0 of the host's command copies nothing"):
        commands([run(L0, 0, L1, 0, 8)], LIO, host)


# --- list identifiers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "asked", "usage"),
    [
        pytest.param(LIO, None, ListIdUsage.DISABLE, id="own copies need none"),
        pytest.param(SCST, None, ListIdUsage.DISCARD, id="unless the executor wants one"),
        pytest.param(LIO, ListIdUsage.HOLD, ListIdUsage.HOLD, id="the host's is kept"),
        pytest.param(SCST, ListIdUsage.DISABLE, ListIdUsage.DISCARD, id="none is not allowed"),
        pytest.param(TCMU, ListIdUsage.HOLD, ListIdUsage.DISABLE, id="nothing else is allowed"),
    ],
)
def test_list_id_usage_follows_host_and_executor(
    limits: CopyLimits, asked: ListIdUsage | None, usage: ListIdUsage
) -> None:
    template = None
    if asked is not None:
        template = host_command(usage=asked, list_id=0 if asked is ListIdUsage.DISABLE else 7)
    (command,) = commands([run(L0, 0, L1, 0, 8)], limits, template)
    sent = parse_extended_copy(command.parameter_list)
    assert (sent.list_id, sent.list_id_usage) == (0, usage)
    assert command.needs_list_id == (usage is not ListIdUsage.DISABLE)


def test_list_id_is_written_into_its_byte_only() -> None:
    (command,) = commands([run(L0, 0, L1, 0, 8)], SCST)
    assert changed_bytes(command.parameter_list, command.with_list_id(200)) == {0}
    (command,) = commands([run(L0, 0, L1, 0, 8)], LIO)
    assert command.with_list_id(0) == command.parameter_list
    with pytest.raises(ValueError, match="no list identifier"):
        command.with_list_id(1)


# --- names ---------------------------------------------------------------------------------------


def test_lu_on_another_machine_is_named_by_an_alias_that_the_command_brings_along() -> None:
    (command,) = commands([run(L0, 0, VAULT, 0, 8)], DAIKO)
    _, destination = parse_extended_copy(command.parameter_list).cscds
    (alias,) = command.aliases
    assert isinstance(destination, AliasCscd)
    assert destination.alias == alias.value
    assert (alias.name, alias.host, alias.port) == (
        "iqn.2026-11.example:vault",
        "192.0.2.7",
        3260,
    )
    assert alias.format is AliasFormat.NAME_IPV4


def test_alias_is_the_same_in_every_command_and_differs_between_targets() -> None:
    there, elsewhere = address(VAULT), address(VAULT, portals=("[2001:db8::7]:3261",))
    assert alias_for(there) == alias_for(address(VAULT))
    assert alias_for(there).value != alias_for(elsewhere).value
    assert (alias_for(elsewhere).host, alias_for(elsewhere).port) == ("2001:db8::7", 3261)


def test_two_lus_of_one_target_share_an_alias() -> None:
    second_lu = DeviceId("vault", 300)
    devices = {**ALL, second_lu: address(second_lu)}
    steps = [run(L0, 0, VAULT, 0, 8), run(L0, 8, second_lu, 0, 8)]
    (command,) = commands(steps, DAIKO, devices=devices)
    assert len(command.aliases) == 1
    luns = [
        cscd.lun
        for cscd in parse_extended_copy(command.parameter_list).cscds
        if isinstance(cscd, AliasCscd)
    ]
    assert luns == [0, 0x412C << 48]


def test_portal_forms_carry_address_port_and_lun() -> None:
    there = address(DeviceId("vault", 3), portals=("192.0.2.7:3261",))
    assert cscd_for(Naming(Form.IPV4), there) == Ipv4Cscd(
        3 << 48, bytes([192, 0, 2, 7]), 3261, block_length=512
    )
    there = replace(there, portals=("[2001:db8::7]:3260",))
    cscd = cscd_for(Naming(Form.IPV6), there)
    assert isinstance(cscd, Ipv6Cscd)
    assert (cscd.address.hex(), cscd.port) == ("20010db8000000000000000000000007", 3260)


def test_descriptor_of_two_units_comes_last_and_ids_count_past_it() -> None:
    limits = replace(DAIKO, aliases=False)
    far, farther = DeviceId("vault", 1), DeviceId("vault", 2)
    devices = {
        **ALL,
        **directory(
            *(
                address(device, designators=(), portals=("[2001:db8::7]:3260",))
                for device in (far, farther)
            )
        ),
    }
    steps = [run(far, 0, L1, 0, 8), run(farther, 0, L1, 8, 8)]
    (command,) = commands(steps, limits, devices=devices)
    sent = parse_extended_copy(command.parameter_list)
    assert [type(cscd) for cscd in sent.cscds] == [IdentificationCscd, Ipv6Cscd, Ipv6Cscd]
    assert [(segment.source, segment.destination) for segment in copies(sent)] == [(1, 0), (3, 0)]


def copies(sent: ExtendedCopy) -> list[BlockToBlock]:
    return [segment for segment in sent.segments if isinstance(segment, BlockToBlock)]


def test_relative_port_of_the_host_means_nothing_to_the_executor() -> None:
    given = IdentificationCscd(ALPHA, relative_port=2, nul=True)
    cscd = cscd_for(name_for("sd1", address(L0), LIO, ALL), address(L0), given)
    assert (cscd.relative_port, cscd.nul) == (0, True)


# --- limits and cover ----------------------------------------------------------------------------


def test_steps_of_two_executors_or_of_this_controller_are_refused() -> None:
    mine = Step(Piece(L0, 0, 1), Piece(L1, 0, 1), THIS_CONTROLLER, "")
    theirs = replace(mine, executor=second("sd2"))
    with pytest.raises(ValueError, match="one second controller"):
        generate([mine], ALL, LIO)
    with pytest.raises(ValueError, match="one second controller"):
        generate([run(L0, 0, L1, 0, 1), theirs], ALL, LIO)


def test_no_steps_no_commands() -> None:
    assert commands([]) == []


def test_lu_too_many_begins_another_command() -> None:
    steps = [run(L0, 0, L1, 0, 8), run(L0, 8, L1, 8, 8), run(L0, 16, L2, 0, 8)]
    made = commands(steps, replace(DAIKO, max_cscds=2))
    assert [[cover.step for cover in command.covers] for command in made] == [[0, 1], [2]]
    assert len(commands(steps, replace(DAIKO, max_cscds=3))) == 1


@pytest.mark.parametrize("by_host", [False, True], ids=["administrator", "host"])
def test_no_command_is_larger_than_it_may_be_whoever_asked_for_the_copy(by_host: bool) -> None:
    mib = 2048
    host = replace(host_command(), segments=(BlockToBlock(0, 1, 60000, 100, 7),))
    made = commands(
        [run(L0, 100, L1, 7, 60000)],
        DAIKO,
        host if by_host else None,
        most_bytes=4 << 20,
    )
    assert max(command.size for command in made) <= 4 << 20
    covers = [cover for command in made for cover in command.covers]
    assert [cover.offset for cover in covers[1:]] == [
        cover.offset + cover.blocks for cover in covers[:-1]
    ]
    assert sum(cover.blocks for cover in covers) == 60000
    assert all((100 + cover.offset) % mib == 0 for cover in covers[1:])
    if by_host:
        sent = [parse_extended_copy(command.parameter_list) for command in made]
        assert {(copy.striped, copy.priority) for copy in sent} == {(host.striped, host.priority)}


def test_commands_are_made_as_they_are_asked_for() -> None:
    huge = generate([run(L0, 0, L1, 0, 1 << 50)], ALL, LIO)
    assert [next(huge).covers[0].offset for _ in range(3)] == [0, 63488, 126976]


def test_pull_is_sent_to_the_destination() -> None:
    (command,) = commands([run(VAULT, 0, L1, 0, 8)], DAIKO)
    assert command.lun == 1
    (command,) = commands([run(L0, 0, L1, 0, 8)], DAIKO)
    assert command.lun == 0


def test_whole_host_segment_of_65535_blocks_stays_whole() -> None:
    host = replace(host_command(), segments=(BlockToBlock(0, 1, 65535, 0, 0),))
    (command,) = commands([run(L0, 1, L1, 0, 65535)], LIO, host)
    assert command.covers == (Cover(0, 0, 65535),)


def test_cut_falls_on_a_multiple_of_a_mebibyte_of_the_source() -> None:
    made = commands([run(L0, 3, L1, 0, 200_000)])
    starts = [3 + command.covers[0].offset for command in made]
    assert starts[0] == 3
    assert all(start % 2048 == 0 for start in starts[1:])


def test_limit_of_segment_bytes_is_kept() -> None:
    made = commands([run(L0, 0, L1, 0, 100_000)], TCMU)
    assert max(command.covers[0].blocks for command in made) * 512 == 16 << 20


def test_command_bytes_bound_what_one_answer_confirms() -> None:
    made = commands([run(L0, 0, L1, 0, 1_000_000)], DAIKO, command_bytes=8 << 20)
    for command in made:
        assert sum(cover.blocks for cover in command.covers) * 512 <= 8 << 20


def test_limits_that_leave_no_room_are_refused_rather_than_passed_over() -> None:
    with pytest.raises(Unnameable, match="the limits of sd1 leave no room"):
        commands([run(L0, 0, L1, 0, 8)], replace(LIO, max_list_bytes=91))


limits_of_any_kind = st.builds(
    CopyLimits,
    max_cscds=st.integers(2, 5),
    max_segments=st.integers(1, 6),
    max_list_bytes=st.sampled_from([0, 92, 120, 1024]),
    max_segment_bytes=st.sampled_from([0, 512, 4096, 1 << 20]),
    max_segment_blocks=st.sampled_from([1, 7, 65535]),
    no_list_id=st.booleans(),
    cscd_types=st.just((0xE4, 0xE6)),
    aliases=st.just(True),
)
steps_of_one_executor = st.lists(
    st.tuples(
        st.sampled_from([L0, L1, L2, VAULT]),
        st.integers(0, 5000),
        st.sampled_from([L0, L1, L2]),
        st.integers(0, 5000),
        st.integers(1, 60),
    ).flatmap(
        # Either side may be the executor's own, one of them at least is.
        lambda found: st.sampled_from([found, (*found[2:4], *found[0:2], found[4])])
    ),
    min_size=1,
    max_size=6,
)


@given(
    steps_of_one_executor,
    st.one_of(limits_of_any_kind, st.sampled_from([LIO, DAIKO, TCMU, SCST, LEAST_LIMITS])),
    st.booleans(),
    st.sampled_from([512, 10_000, COMMAND_BYTES]),
)
def test_commands_cover_the_steps_exactly_once_within_the_limits(
    found: list[tuple[DeviceId, int, DeviceId, int, int]],
    limits: CopyLimits,
    by_host: bool,
    command_bytes: int,
) -> None:
    template = None
    if by_host:
        template = host_command(segments=len(found))
    limits = replace(limits, cscd_types=(0xE4, 0xE6), aliases=True)
    steps = [run(*each, segment=number) for number, each in enumerate(found)]
    copied: list[tuple[DeviceId, int, DeviceId, int]] = []
    done: list[tuple[int, int]] = []
    for command in commands(steps, limits, template, command_bytes=command_bytes):
        copied += what_it_copies(command)
        done += [
            (cover.step, cover.offset + n) for cover in command.covers for n in range(cover.blocks)
        ]
        check_limits(command, limits, None if by_host else command_bytes)
    assert copied == [
        (source, lba + n, destination, at + n)
        for source, lba, destination, at, blocks in found
        for n in range(blocks)
    ]
    assert done == [(number, n) for number, each in enumerate(found) for n in range(each[4])]


def what_it_copies(command: SecondCommand) -> list[tuple[DeviceId, int, DeviceId, int]]:
    """Block by block, as the executor would read the bytes."""
    sent = parse_extended_copy(command.parameter_list)
    targets = {alias.value: alias.name for alias in command.aliases}

    def device(cscd_id: int) -> DeviceId:
        cscd = sent.cscd(cscd_id)
        if isinstance(cscd, AliasCscd):
            (found,) = [
                each.device
                for each in ALL.values()
                if each.iqn == targets[cscd.alias] and lun_field(each.lun) == cscd.lun
            ]
            return found
        by_name = {naa(each): each for each in ALL}
        return by_name[identifier(sent, cscd_id)]

    copied = []
    for segment, cover in zip(sent.segments, command.covers, strict=True):
        assert isinstance(segment, BlockToBlock)
        assert segment.blocks == cover.blocks
        source, destination = device(segment.source), device(segment.destination)
        assert DeviceId("sd1", command.lun) in (source, destination)
        copied += [
            (source, segment.source_lba + n, destination, segment.destination_lba + n)
            for n in range(segment.blocks)
        ]
    return copied


def check_limits(command: SecondCommand, limits: CopyLimits, command_bytes: int | None) -> None:
    sent = parse_extended_copy(command.parameter_list)
    blocks = [cover.blocks for cover in command.covers]
    descriptors = len(command.parameter_list) - 16
    assert int.from_bytes(command.cdb[10:14], "big") == len(command.parameter_list)
    assert len(sent.cscds) <= limits.max_cscds
    assert 1 <= len(sent.segments) <= limits.max_segments
    assert descriptors <= (limits.max_list_bytes or descriptors)
    assert max(blocks) <= limits.max_segment_blocks
    assert max(blocks) * 512 <= (limits.max_segment_bytes or max(blocks) * 512)
    assert sum(blocks) * 512 <= (command_bytes or sum(blocks) * 512)
    assert command.needs_list_id or limits.no_list_id
