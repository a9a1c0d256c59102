"""Registrations and reservations of ports that a host names, its own or those of others."""

from __future__ import annotations

import pytest

from daiko.scsi.persistent_reservation import FullStatus, MoveList
from daiko.scsi.transport_id import TransportId
from daiko.target.asymmetric_access import TargetPortGroups
from target.fake import Host, unit_of
from target.reserving import (
    BAD_LIST,
    CONFLICT,
    EA,
    GOOD,
    WE,
    WE_RO,
    access_to,
    full_status,
    hosts_of,
    keys,
    move,
    out,
    pointer,
    port_of,
    register,
    reservation,
    reserve,
    status,
    writes,
)


def test_named_ports_are_registered_also_before_they_log_in() -> None:
    a, b = hosts_of(unit_of())
    stranger = TransportId("iqn.2026-11.test:stranger", bytes.fromhex("0023d0000001"))
    ids = (port_of(b), stranger)
    assert register(a, 9, spec_i_pt=True, transport_ids=ids) == GOOD
    assert [each.transport_id for each in full_status(a)] == [port_of(a), *ids]
    reserve(b, 9, WE_RO)
    assert writes(a).status == GOOD
    late = Host(a.access, stranger.name, isid=0x0023D0000001)
    assert writes(late).status == GOOD


def test_device_that_is_named_stands_for_its_known_ports() -> None:
    access = access_to(unit_of())
    a = Host(access, "iqn.2026-11.test:a")
    Host(access, "iqn.2026-11.test:b", isid=1)
    Host(access, "iqn.2026-11.test:b", isid=2)
    device = TransportId("iqn.2026-11.test:b")
    assert register(a, 9, spec_i_pt=True, transport_ids=(device,)) == GOOD
    assert [each.transport_id.isid for each in full_status(a)[1:]] == [
        (1).to_bytes(6, "big"),
        (2).to_bytes(6, "big"),
    ]


def test_device_without_a_known_port_is_refused() -> None:
    (a,) = hosts_of(unit_of(), 1)
    stranger = (TransportId("iqn.2026-11.test:nobody"),)
    task = out(a, "Register", 0, 9, spec_i_pt=True, transport_ids=stranger)
    assert (task.condition, pointer(task)) == (BAD_LIST, (False, 24, None))
    assert keys(a) == ()


def two_ports() -> tuple[Host, Host, Host]:
    """Host a at the target ports 1 and 2, host b at 2."""
    groups = TargetPortGroups()
    groups.replace({1: 1, 2: 2}, {})
    access = access_to(unit_of(port_groups=groups))
    names = ("iqn.2026-11.test:a", "iqn.2026-11.test:b")
    return Host(access, names[0]), Host(access, names[0], port=2), Host(access, names[1], port=2)


def test_registration_is_of_one_target_port() -> None:
    a1, a2, b = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE_RO)
    assert [writes(host).status for host in (a1, a2, b)] == [GOOD, CONFLICT, CONFLICT]
    assert register(a2, 1) == GOOD
    assert writes(a2).status == GOOD
    assert [each.relative_target_port for each in full_status(b)] == [1, 2]


def test_all_target_ports_are_registered_together() -> None:
    a1, a2, b = two_ports()
    assert register(a1, 1, all_tg_pt=True) == GOOD
    reserve(a2, 1, EA)
    assert [writes(host).status for host in (a1, a2, b)] == [CONFLICT, GOOD, CONFLICT]
    assert [(s.relative_target_port, s.type) for s in full_status(b)] == [(1, None), (2, EA)]


def test_reservation_moves_to_a_port_of_another_target_port() -> None:
    a1, _, b = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE)
    assert status(move(a1, MoveList(1, 2, port_of(b), 2, unreg=True))) == GOOD
    assert full_status(b) == (FullStatus(2, port_of(b), 2, WE),)
    assert [writes(host).status for host in (a1, b)] == [CONFLICT, GOOD]


@pytest.mark.parametrize(
    ("name", "target_port", "byte"),
    [
        pytest.param("iqn.2026-11.test:b", 3, 18, id="target port that there is not"),
        pytest.param("iqn.2026-11.test:nobody", 1, 24, id="device without a known port"),
    ],
)
def test_move_to_what_is_not_known_is_refused(name: str, target_port: int, byte: int) -> None:
    a1, _, _ = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE)
    task = move(a1, MoveList(1, 2, TransportId(name), target_port))
    assert (task.condition, pointer(task)) == (BAD_LIST, (False, byte, None))
    assert reservation(a1) == (1, WE)


def test_move_to_a_device_goes_to_its_one_known_port() -> None:
    a1, _, b = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE)
    assert status(move(a1, MoveList(1, 2, TransportId(b.nexus.initiator_name), 2))) == GOOD
    assert full_status(b)[-1] == FullStatus(2, port_of(b), 2, WE)
