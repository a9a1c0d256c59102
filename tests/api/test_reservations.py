"""Reservations of hosts over REST, in the store, and over a restart of the system."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from daiko.control.system import System
from daiko.scsi.persistent_reservation import ReservationType
from daiko.state.record import ReservationRecord
from daiko.state.sqlite import SqliteStore
from daiko.state.store import StoreError
from target.fake import FakeTask, Host
from target.reserving import attentions, keys, out, reservation

Attach = Callable[..., Awaitable[Path]]
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
NOTHING = {
    "volume": "v",
    "type": None,
    "kept": False,
    "generation": 0,
    "reserved_by": None,
    "registrations": [],
}


async def volume(api: httpx.AsyncClient, attach: Attach) -> None:
    """Volume v, LUN 0 of the hosts web (iqn.2026-11.test:a) and any."""
    await attach("disk")
    made = {"how": "image", "name": "v", "device": "disk"}
    assert (await api.post("/volumes", json=made)).status_code == 201
    for name, initiator in (("web", "iqn.2026-11.test:a"), ("any", "*")):
        host = {"name": name, "initiators": [initiator], "luns": {"0": "v"}}
        assert (await api.post("/hosts", json=host)).status_code == 201


async def ended(task: FakeTask, system: System) -> int | None:
    await system._publication.keepers.settle()
    assert task.answers == 1
    return task.status


async def hosts(system: System) -> tuple[Host, Host]:
    """a is registered and holds a reservation that is kept; b is registered."""
    a = Host(system.access, "iqn.2026-11.test:a", isid=0x23D)
    b = Host(system.access, "iqn.2026-11.test:b")
    assert await ended(out(a, "Register", 0, 0x1A2B, aptpl=True), system) == 0
    assert await ended(out(b, "Register", 0, 2, aptpl=True), system) == 0
    assert await ended(out(a, "Reserve", 0x1A2B, type=WE_RO), system) == 0
    return a, b


async def get(api: httpx.AsyncClient) -> Any:
    answer = await api.get("/volumes/v/reservations")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_who_is_registered_and_who_holds_is_shown(
    system: System, api: httpx.AsyncClient, attach: Attach
) -> None:
    await volume(api, attach)
    assert await get(api) == NOTHING
    _, b = await hosts(system)
    system.access.nexus_lost(b.nexus)
    assert await get(api) == {
        "volume": "v",
        "type": "write-exclusive-registrants-only",
        "kept": True,
        "generation": 2,
        "reserved_by": None,
        "registrations": [
            {
                "host": "web",
                "initiator": "iqn.2026-11.test:a",
                "isid": "00000000023d",
                "target_port": 1,
                "key": "0x1a2b",
                "holds": True,
                "in_session": True,
            },
            {
                "host": "any",
                "initiator": "iqn.2026-11.test:b",
                "isid": "000000000001",
                "target_port": 1,
                "key": "0x2",
                "holds": False,
                "in_session": False,
            },
        ],
    }


async def test_reserve_of_a_host_is_shown(
    system: System, api: httpx.AsyncClient, attach: Attach
) -> None:
    await volume(api, attach)
    a = Host(system.access, "iqn.2026-11.test:a")
    a.run("160000000000")
    assert await get(api) == {**NOTHING, "reserved_by": "iqn.2026-11.test:a"}
    had = (await api.post("/volumes/v/clear-reservations")).json()
    assert had["reserved_by"] == "iqn.2026-11.test:a"
    assert await get(api) == {**NOTHING, "generation": 1}


async def test_clearing_takes_all_away_tells_hosts_and_says_what_there_was(
    system: System, api: httpx.AsyncClient, attach: Attach
) -> None:
    await volume(api, attach)
    a, b = await hosts(system)
    other = Host(system.access, "iqn.2026-11.test:c")
    assert other.run("2a000000000000000100", bytes(512)).status == 0x18
    had = (await api.post("/volumes/v/clear-reservations")).json()
    assert [each["key"] for each in had["registrations"]] == ["0x1a2b", "0x2"]
    assert system.store.list(ReservationRecord) == ()
    assert (attentions(a), attentions(b), attentions(other)) == ([(0x2A, 3)], [(0x2A, 3)], [])
    assert await get(api) == {**NOTHING, "generation": 3}


@pytest.mark.parametrize("verb", ["get", "post"])
async def test_volume_that_there_is_not_is_not_found(api: httpx.AsyncClient, verb: str) -> None:
    path = "reservations" if verb == "get" else "clear-reservations"
    answer = await getattr(api, verb)(f"/volumes/nil/{path}")
    assert answer.status_code == 404
    assert "volume ls" in answer.json()["next_step"]


async def test_store_that_cannot_be_written_keeps_everything_as_it_was(
    system: System, api: httpx.AsyncClient, attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume(api, attach)
    a, _ = await hosts(system)
    before = await get(api)

    async def full(*_: object) -> None:
        raise StoreError("no space left on device")

    monkeypatch.setattr(system.store, "_commit", full)
    assert await ended(out(a, "Clear", 0x1A2B), system) == 0x02
    answer = await api.post("/volumes/v/clear-reservations")
    assert answer.status_code == 503
    assert "log" in answer.json()["next_step"]
    assert await get(api) == before


async def test_reservation_is_held_against_hosts_after_the_process_was_lost(
    system: System, api: httpx.AsyncClient, attach: Attach, tmp_path: Path
) -> None:
    await volume(api, attach)
    await hosts(system)
    # The store as it lies there at the moment of the last GOOD.
    shutil.copytree(tmp_path / "store", tmp_path / "left")
    (tmp_path / "left").chmod(0o700)
    store = SqliteStore.open(tmp_path / "left")
    again = await System.start(store)
    try:
        a = Host(again.access, "iqn.2026-11.test:a", isid=0x23D)
        other = Host(again.access, "iqn.2026-11.test:c")
        assert (keys(a), reservation(a)) == ((0x1A2B, 2), (0x1A2B, WE_RO))
        assert other.run("2a000000000000000100", bytes(512)).status == 0x18
    finally:
        await again.stop()
        await store.close()


async def test_what_was_kept_goes_with_the_volume(
    system: System, api: httpx.AsyncClient, attach: Attach
) -> None:
    await volume(api, attach)
    await hosts(system)
    assert len(system.store.list(ReservationRecord)) == 1
    for host in ("web", "any"):
        assert (await api.delete(f"/hosts/{host}")).status_code == 204
    assert (await api.delete("/volumes/v")).status_code == 204
    assert system.store.list(ReservationRecord) == ()
