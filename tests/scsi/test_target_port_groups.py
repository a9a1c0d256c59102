"""Parameter data of REPORT and SET TARGET PORT GROUPS, byte for byte as SPC-4 draws it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.scsi.layout import MalformedData
from daiko.scsi.target_port_groups import (
    SETTABLE,
    AccessState,
    SetTargetPortGroup,
    StatusCode,
    TargetPortGroup,
    pack_set_target_port_groups,
    pack_target_port_groups,
    parse_set_target_port_groups,
    parse_target_port_groups,
)

groups = st.lists(
    st.builds(
        TargetPortGroup,
        st.integers(0, 0xFFFF),
        st.lists(st.integers(0, 0xFFFF), max_size=4).map(tuple),
        st.sampled_from(AccessState),
        st.frozensets(st.sampled_from(AccessState)),
        st.booleans(),
        st.sampled_from(StatusCode),
    ),
    max_size=4,
)


@given(groups)
def test_parse_of_pack_returns_the_groups(value: list[TargetPortGroup]) -> None:
    assert parse_target_port_groups(pack_target_port_groups(value)) == tuple(value)


@given(groups, st.integers(0, 255))
def test_extended_header_changes_nothing_about_the_groups(
    value: list[TargetPortGroup], seconds: int
) -> None:
    data = pack_target_port_groups(value, extended_header=True, transition_seconds=seconds)
    assert data[4] == 0x10
    assert data[5] == seconds
    assert parse_target_port_groups(data, extended_header=True) == tuple(value)


@given(st.lists(st.builds(TargetPortGroup, st.integers(0, 99), st.just((1,)), st.just(0))))
def test_answer_without_the_extended_header_that_was_asked_for_is_understood(
    value: list[TargetPortGroup],
) -> None:
    """A target of SPC-3 does not know the bits of the CDB that ask for it."""
    data = pack_target_port_groups(value)
    assert parse_target_port_groups(data, extended_header=True) == tuple(value)


@pytest.mark.parametrize(
    ("group", "written"),
    [
        pytest.param(TargetPortGroup(1, (1, 2)), "00010001 00000002 00000001 00000002", id="plain"),
        pytest.param(
            TargetPortGroup(
                0x102,
                (0x304,),
                AccessState.STANDBY,
                frozenset(AccessState),
                preferred=True,
                status_code=StatusCode.EXPLICIT,
            ),
            "82cf0102 00010001 00000304",
            id="every-field",
        ),
        pytest.param(
            TargetPortGroup(2, (), AccessState.OFFLINE), "0e010002 00000000", id="offline"
        ),
        pytest.param(
            TargetPortGroup(2, (), AccessState.TRANSITIONING, frozenset({AccessState.UNAVAILABLE})),
            "0f080002 00000000",
            id="transitioning",
        ),
    ],
)
def test_group_is_written_as_the_standard_says(group: TargetPortGroup, written: str) -> None:
    data = pack_target_port_groups([group])
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert data[4:].hex(" ", 4) == written


def test_extended_header_goes_before_the_groups() -> None:
    data = pack_target_port_groups(
        [TargetPortGroup(1, ())], extended_header=True, transition_seconds=30
    )
    assert data.hex(" ", 4) == "0000000c 101e0000 00010001 00000000"


@pytest.mark.parametrize("length", [0, 3, 4, 11, 15, 19])
def test_groups_cut_short_are_malformed(length: int) -> None:
    with pytest.raises(MalformedData):
        parse_target_port_groups(pack_target_port_groups([TargetPortGroup(1, (1, 2))])[:length])


def test_group_whose_ports_run_past_the_data_is_malformed() -> None:
    data = bytearray(pack_target_port_groups([TargetPortGroup(1, (1, 2))]))
    data[11] = 3
    with pytest.raises(MalformedData):
        parse_target_port_groups(bytes(data) + bytes(8))


def test_length_that_ends_inside_a_group_is_malformed() -> None:
    data = bytearray(pack_target_port_groups([TargetPortGroup(1, ())]))
    data[3] = 4
    with pytest.raises(MalformedData):
        parse_target_port_groups(bytes(data))


# --- SET TARGET PORT GROUPS


@given(
    st.lists(st.builds(SetTargetPortGroup, st.integers(0, 15), st.integers(0, 0xFFFF)), max_size=9)
)
def test_parse_of_pack_returns_what_is_asked_for(wanted: list[SetTargetPortGroup]) -> None:
    assert parse_set_target_port_groups(pack_set_target_port_groups(wanted)) == tuple(wanted)


def test_request_is_written_as_the_standard_says() -> None:
    wanted = [
        SetTargetPortGroup(AccessState.STANDBY, 0x102),
        SetTargetPortGroup(AccessState.ACTIVE_OPTIMIZED, 3),
    ]
    assert pack_set_target_port_groups(wanted).hex(" ", 4) == "00000000 02000102 00000003"


@pytest.mark.parametrize("length", [0, 3, 5, 7, 9])
def test_request_that_ends_inside_a_descriptor_is_malformed(length: int) -> None:
    with pytest.raises(MalformedData):
        parse_set_target_port_groups(bytes(length))


def test_states_that_can_be_set_are_the_primary_ones() -> None:
    assert {int(state) for state in SETTABLE} == {0, 1, 2, 3}
    assert [state for state in AccessState if state.is_active] == [0, 1]
