"""Sites: two first controllers that name each other, what each may learn, and how links end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daiko.backend.site_session import LinkState, NoSuchDevice, NotOffered, SiteUnavailable
from daiko.command_control.function_table import FunctionCell, Known, ReachCell
from daiko.command_control.naming import naa_of
from daiko.command_control.plan import Function
from daiko.control import backends, chap, hosts, sites, volumes
from daiko.control.apply import Verb, apply, export
from daiko.control.chap import Chap
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.device import awaitable
from daiko.device.error import Refused
from daiko.mapping.extent import DeviceId
from daiko.scsi.site_values import Envelope
from daiko.state.record import (
    BackendRecord,
    CredentialRecord,
    ExtentRecord,
    FunctionRecord,
    HostRecord,
    ReachRecord,
    SiteRecord,
)
from site_rig import Site, linked, login_of, reaches


@pytest.fixture
async def osaka(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path, "osaka")
    yield site
    await site.stop()


# --- the link


async def test_link_is_up_when_both_administrators_have_named_the_other(
    tokyo: Site, osaka: Site
) -> None:
    await tokyo.start()
    await osaka.start()
    alone = await tokyo.add(osaka, without_chap=False)
    assert alone.status.state is LinkState.REFUSED
    assert "adds this system as a site" in alone.status.detail
    both = await osaka.add(tokyo, without_chap=False)
    assert both.status.state is LinkState.UP
    state = await sites.probe(tokyo.system, "osaka")
    assert state.status.state is LinkState.UP
    assert state.greeting is not None
    assert state.greeting.iqn == osaka.iqn
    assert state.version == (1, 2)
    assert [login.initiator for login in state.logins] == [osaka.initiator]
    await reaches(tokyo.link(osaka), LinkState.UP)
    assert sites.ls(tokyo.system) == [sites.show(tokyo.system, "osaka")]


async def test_other_system_is_known_again_after_a_restart(tokyo: Site, osaka: Site) -> None:
    await linked(tokyo, osaka)
    identity = osaka.system.record.identity
    await tokyo.until(lambda: sites.show(tokyo.system, "osaka").record.identity == identity)
    await osaka.stop()
    await reaches(tokyo.link(osaka), LinkState.DOWN)
    await osaka.start()
    assert osaka.system.record.identity == identity
    await reaches(tokyo.link(osaka), LinkState.UP)
    await tokyo.stop()
    await tokyo.start()
    await reaches(tokyo.link(osaka), LinkState.UP)
    assert sites.show(tokyo.system, "osaka").record.identity == identity


async def test_another_system_under_the_same_name_is_refused(
    tokyo: Site, osaka: Site, tmp_path: Path
) -> None:
    await linked(tokyo, osaka)
    await osaka.stop()
    (tmp_path / "other").mkdir()
    impostor = Site(tmp_path / "other", "osaka")
    impostor.portal = osaka.portal
    await impostor.start()
    try:
        await impostor.add(tokyo)
        await reaches(tokyo.link(osaka), LinkState.REFUSED, "another system than before")
    finally:
        await impostor.stop()


async def test_site_that_has_forgotten_us_refuses_us(tokyo: Site, osaka: Site) -> None:
    await linked(tokyo, osaka)
    await sites.remove(osaka.system, "tokyo")
    await reaches(tokyo.link(osaka), LinkState.REFUSED, "authorization failure")
    assert not osaka.sees(tokyo)
    await osaka.add(tokyo)
    await tokyo.link(osaka).probe()
    await reaches(tokyo.link(osaka), LinkState.UP)


async def test_host_is_no_peer(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    await osaka.start()
    await osaka.volume("alpha")
    await hosts.add(osaka.system, "any", ["*"], luns={0: "alpha"})
    state = await tokyo.add(osaka)
    assert state.status.state is LinkState.REFUSED
    assert "VIRTUAL LU" in state.status.detail or "LU, no management unit" in state.status.detail


# --- CHAP


async def test_site_without_chap_must_be_asked_for_in_plain_words(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    for login, peer, field in (
        (login_of("tokyo"), None, "peer_chap"),
        (None, login_of("osaka"), "chap"),
        (None, None, "peer_chap"),
    ):
        with pytest.raises(Invalid) as caught:
            await sites.add(tokyo.system, "osaka", osaka.address, login=login, peer=peer)
        assert caught.value.field == field
        assert "--without-chap" in caught.value.next_step
    assert sites.ls(tokyo.system) == []


async def test_wrong_secret_is_refused_and_the_right_one_is_not(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    await osaka.start()
    await tokyo.add(osaka, without_chap=False, own="mallory")
    wrong = await osaka.add(tokyo, without_chap=False)
    assert wrong.status.state is LinkState.UP
    state = await sites.probe(tokyo.system, "osaka")
    assert state.status.state is LinkState.REFUSED
    assert "authentication failure" in state.status.detail
    right = await sites.change(tokyo.system, "osaka", login=login_of("tokyo"))
    assert right.status.state is LinkState.UP
    assert right.chap is not None
    assert right.chap.user == "tokyo"


async def test_peer_without_its_secret_is_not_let_in(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    await osaka.start()
    await osaka.add(tokyo, without_chap=False)
    state = await tokyo.add(osaka)  # by its name alone
    assert state.status.state is LinkState.REFUSED
    assert not osaka.sees(tokyo)


async def test_one_secret_is_not_good_for_both_directions(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    same = "one secret for all"
    cases: list[dict[str, Any]] = [
        {"login": Chap("a", same), "peer": Chap("b", same)},
        {"login": Chap("a", "x" * 16, "c", same), "peer": Chap("b", "y" * 16, "d", same)},
    ]
    for case in cases:
        with pytest.raises(Invalid, match="both directions"):
            await sites.add(tokyo.system, "osaka", osaka.address, **case)


async def test_chap_is_taken_away_only_in_plain_words(tokyo: Site, osaka: Site) -> None:
    await linked(tokyo, osaka, without_chap=False)
    kept = await sites.change(tokyo.system, "osaka", initiator=osaka.initiator)
    assert (kept.chap, kept.peer_chap) != (None, None)
    bare = await sites.change(tokyo.system, "osaka", without_chap=True)
    assert (bare.chap, bare.peer_chap, bare.record.without_chap) == (None, None, True)
    assert tokyo.system.store.get(CredentialRecord, chap.peer("osaka")) is None
    again = await sites.change(
        tokyo.system, "osaka", login=login_of("tokyo"), peer=login_of("osaka")
    )
    assert not again.record.without_chap


# --- names


async def test_names_are_of_one_only(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    await tokyo.add(osaka)
    with pytest.raises(Conflict, match="called 'osaka'"):
        await tokyo.add(osaka)
    with pytest.raises(Conflict, match="is site 'osaka' already"):
        await sites.add(tokyo.system, "again", osaka.address, without_chap=True)
    with pytest.raises(Invalid, match="own target"):
        await sites.add(tokyo.system, "us", tokyo.address, without_chap=True)
    other = "iscsi://192.0.2.9/iqn.2026-11.com.example:kyoto"
    with pytest.raises(Conflict, match="site 'osaka' logs in as"):
        await sites.add(tokyo.system, "kyoto", other, initiator=osaka.initiator, without_chap=True)
    with pytest.raises(Conflict, match="site osaka has the initiator"):
        await hosts.add(tokyo.system, "h1", [osaka.initiator])
    await hosts.add(tokyo.system, "h1", ["iqn.2026-11.com.example:h1"])
    with pytest.raises(Conflict, match="host 'h1' has the initiator"):
        await sites.add(
            tokyo.system, "kyoto", other, initiator="iqn.2026-11.com.example:h1", without_chap=True
        )
    for bad in ("192.0.2.9", "iscsi://", "http://a/b", "iscsi://a/b/c/d", "iscsi://u@a/iqn"):
        with pytest.raises(Invalid):
            await sites.add(tokyo.system, "kyoto", bad, without_chap=True)
    with pytest.raises(NotFound, match="'nara'") as caught:
        sites.show(tokyo.system, "nara")
    assert caught.value.next_step == "the sites are osaka"


async def test_target_is_found_where_there_is_only_one(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    await osaka.start()
    await osaka.add(tokyo)
    state = await sites.add(tokyo.system, "osaka", f"iscsi://{osaka.portal}", without_chap=True)
    assert (state.record.iqn, state.record.initiator) == (osaka.iqn, osaka.initiator)
    assert state.status.state is LinkState.UP


# --- what is offered


@pytest.fixture
async def pair(tokyo: Site, osaka: Site) -> tuple[Site, Site]:
    """Linked; osaka has alpha, which it offers, and secret, which it does not."""
    await linked(tokyo, osaka)
    await osaka.volume("alpha", 2048)
    await osaka.volume("secret", 1024, 4096)
    await osaka.system.sites.offer("tokyo", "alpha")
    return tokyo, osaka


async def test_offered_volume_is_there_to_be_read_and_written(pair: tuple[Site, Site]) -> None:
    tokyo, osaka = pair
    (volume,) = (await tokyo.link(osaka).volumes()).values()
    record = osaka.system.unit("alpha").identity
    assert (volume.lun, volume.name, volume.blocks) == (1, "alpha", 2048)
    assert volume.naa == record.naa
    device = await tokyo.link(osaka).device(1)
    await awaitable.write(device, 7, b"x" * 512)
    there = osaka.system.unit("alpha").bare_device
    assert bytes(await awaitable.read(there, 7, 1)) == b"x" * 512


async def test_unit_that_was_looked_at_while_another_took_its_place_is_looked_at_again(
    pair: tuple[Site, Site],
) -> None:
    """As when the volume joins a pair: a door of its own takes the place of the ordinary unit."""
    tokyo, osaka = pair
    link = tokyo.link(osaka)
    await link.device(1)
    units = link._session._controller.units
    units[1] = replace(units[1], designators=())
    await awaitable.read(await link.device(1), 0, 1)
    assert link.status.state is LinkState.UP


async def test_lun_of_a_volume_is_stable_and_the_lowest_that_is_free(
    pair: tuple[Site, Site],
) -> None:
    tokyo, osaka = pair
    links = osaka.system.sites
    await osaka.volume("beta")
    assert [await links.offer("tokyo", name) for name in ("alpha", "beta", "alpha")] == [1, 2, 1]
    await links.withdraw("tokyo", "alpha")
    assert await links.offer("tokyo", "secret") == 1
    assert {lun: v.name for lun, v in (await tokyo.link(osaka).volumes()).items()} == {
        1: "secret",
        2: "beta",
    }
    for site, volume in (("nara", "alpha"), ("tokyo", "nothing")):
        with pytest.raises(KeyError):
            await links.offer(site, volume)
    with pytest.raises(KeyError):
        await links.withdraw("nara", "alpha")


async def test_peer_learns_nothing_of_what_it_is_not_offered(pair: tuple[Site, Site]) -> None:
    tokyo, osaka = pair
    now = 1793000000.0
    for name in ("alpha-disk", "secret-disk"):
        cell = FunctionCell(True, Known.DECLARED, now, f"{name} can")
        await osaka.system.put_cell(
            FunctionRecord(backend=name, function=Function.VOLUME_COPY, cell=cell)
        )
    for one, other in (("alpha", "secret"), ("secret", "alpha")):
        reach = ReachCell(True, Known.DECLARED, now, "same shelf")
        await osaka.system.put_cell(
            ReachRecord(backend=f"{one}-disk", device=f"{other}-disk/0", cell=reach)
        )
    link = tokyo.link(osaka)
    assert set(await link.volumes()) == {1}
    table = await link.function_table()
    assert set(table.functions) == {("osaka:alpha-disk", Function.VOLUME_COPY)}
    assert table.reach == {}
    mapping = await link.mapping(1)
    assert mapping.table.devices == (DeviceId("osaka:alpha-disk", 0),)
    for lun in (0, 2, 16383):
        with pytest.raises(NotOffered):
            await link.mapping(lun)
        with pytest.raises(NotOffered):
            await link.device(lun)
        with pytest.raises(NotOffered):
            await link.ask_function(lun, mapping.table.devices[0], Function.VOLUME_COPY)
    with pytest.raises(NoSuchDevice):
        await link.ask_function(1, DeviceId("osaka:secret-disk", 0), Function.VOLUME_COPY)
    cell_there = await link.ask_function(1, mapping.table.devices[0], Function.VOLUME_COPY)
    assert cell_there is not None
    assert (cell_there.can, cell_there.reason) == (True, "alpha-disk can")
    assert (await link.ask_function(1, mapping.table.devices[0], Function.DIRECT_BACKUP)) is None
    # Once both are offered, the reach between them is theirs to know.
    await osaka.system.sites.offer("tokyo", "secret")
    assert len((await link.function_table()).reach) == 2


async def test_device_of_a_second_controller_is_told_with_all_that_names_it(
    pair: tuple[Site, Site], tmp_path: Path
) -> None:
    tokyo, osaka = pair
    second = Site(tmp_path, "second")
    await second.start()
    try:
        await second.volume("lu")
        await hosts.add(second.system, "all", ["*"], luns={3: "lu"})
        for site in (osaka, tokyo):  # Both sites reach it, each by a name of its own.
            await backends.add(site.system, f"sd-{site.name}", second.address)
        await volumes.take_image(osaka.system, "far", DeviceId("sd-osaka", 3))
        lun = await osaka.system.sites.offer("tokyo", "far")
        link = tokyo.link(osaka)
        mapping = await link.mapping(lun)
        (device,) = mapping.directory
        assert device == DeviceId("osaka:sd-osaka", 3)
        address = mapping.directory[device]
        assert (address.iqn, address.portals, address.lun) == (second.iqn, (second.portal,), 3)
        naa = naa_of(address)
        assert naa is not None
        assert naa[4:] == second.system.unit("lu").identity.naa
        assert mapping.portal_group_tags == {device: 1}
        cell = await link.ask_function(lun, device, Function.VOLUME_COPY)
        there = osaka.system.function_table().function("sd-osaka", Function.VOLUME_COPY)
        assert cell is not None
        assert there is not None
        assert (cell.can, cell.known, cell.limits) == (there.can, there.known, there.limits)
        assert (await link.function_table()).function(
            "osaka:sd-osaka", Function.VOLUME_COPY
        ) == cell
        # A peer that says of it what we know better is not believed.
        record = tokyo.system.store.get(BackendRecord, "sd-tokyo")
        assert record is not None
        smaller = record.devices[0].model_copy(update={"blocks": 100})
        await tokyo.system.store.put(record.model_copy(update={"devices": (smaller,)}))
        with pytest.raises(SiteUnavailable, match="our sd-tokyo/3 and has 100"):
            await link.mapping(lun)
        assert link.status.state is LinkState.REFUSED
    finally:
        await second.stop()


async def test_cells_of_the_peer_stay_out_of_our_own_table(pair: tuple[Site, Site]) -> None:
    tokyo, osaka = pair
    cell = FunctionCell(True, Known.DECLARED, 1.0, "it can")
    await osaka.system.put_cell(
        FunctionRecord(backend="alpha-disk", function=Function.VOLUME_COPY, cell=cell)
    )
    before = tokyo.system.function_table()
    await tokyo.link(osaka).function_table()
    assert tokyo.system.function_table() == before


async def test_generation_of_the_mapping_changes_when_the_volume_grows(
    pair: tuple[Site, Site],
) -> None:
    tokyo, osaka = pair
    link = tokyo.link(osaka)
    first = await link.mapping(1)
    assert (await link.mapping(1)).generation == first.generation
    await osaka.volume("more", 64)
    await volumes.remove(osaka.system, "more")
    await volumes.grow(osaka.system, "alpha", by=32 * 512, candidates=[DeviceId("more-disk", 0)])
    grown = await link.mapping(1)
    assert grown.table.blocks == 2048 + 32
    assert len(grown.table) == 2
    assert grown.generation != first.generation


async def test_mapping_of_many_extents_comes_whole(tokyo: Site, osaka: Site) -> None:
    await linked(tokyo, osaka)
    await osaka.volume("base", 20_000)
    await volumes.remove(osaka.system, "base")
    extents = [ExtentRecord(device="base-disk/0", lba=2 * n, blocks=1) for n in range(9_000)]
    await volumes.create_by_hand(osaka.system, "many", extents)
    await osaka.system.sites.offer("tokyo", "many")
    mapping = await tokyo.link(osaka).mapping(1)
    assert [extent.device_lba for extent in mapping.table] == [2 * n for n in range(9_000)]


async def test_volume_that_is_offered_stays(pair: tuple[Site, Site]) -> None:
    tokyo, osaka = pair
    with pytest.raises(Conflict, match="offered to site tokyo as LUN 1"):
        await volumes.remove(osaka.system, "alpha")
    with pytest.raises(Conflict, match="is offered alpha as LUN 1"):
        await sites.remove(osaka.system, "tokyo")
    await osaka.system.sites.withdraw("tokyo", "alpha")
    assert await tokyo.link(osaka).volumes() == {}
    await volumes.remove(osaka.system, "alpha")
    await sites.remove(osaka.system, "tokyo")


async def test_two_peers_are_offered_each_their_own(
    pair: tuple[Site, Site], tmp_path: Path
) -> None:
    tokyo, osaka = pair
    kyoto = Site(tmp_path, "kyoto")
    await kyoto.start()
    try:
        await osaka.add(kyoto)
        await kyoto.add(osaka)
        await osaka.system.sites.offer("kyoto", "secret")
        assert [v.name for v in (await kyoto.link(osaka).volumes()).values()] == ["secret"]
        assert [v.name for v in (await tokyo.link(osaka).volumes()).values()] == ["alpha"]
    finally:
        await kyoto.stop()


# --- pairs: the seam


class Pairing:
    def __init__(self) -> None:
        self.received: list[tuple[str, int, Envelope]] = []

    async def receive(self, site: str, lun: int, envelope: Envelope) -> None:
        self.received.append((site, lun, envelope))

    async def answer(self, site: str, lun: int) -> list[Envelope]:
        return [envelope for _, at, envelope in self.received if at == lun]


async def test_pair_commands_reach_who_registers_for_them(pair: tuple[Site, Site]) -> None:
    tokyo, osaka = pair
    link = tokyo.link(osaka)
    envelope = Envelope(1, 1, b"primary" * 1000)
    with pytest.raises(Refused):
        await link.send_pair(1, envelope)
    pairing = osaka.system.sites.pairing.handler = Pairing()
    osaka.system.sites.pairing.state_of = lambda volume: f"{volume} is a secondary"
    await link.send_pair(1, envelope)
    assert pairing.received == [("tokyo", 1, envelope)]
    assert await link.pair_answers(1) == (envelope,)
    assert await link.pair_answers(0) == ()
    assert (await link.volumes())[1].state == "alpha is a secondary"
    with pytest.raises(NotOffered):
        await link.send_pair(2, envelope)
    assert (await link.greet()).actions_out == 1 << 16


# --- system files


async def test_system_file_has_sites_without_their_secrets(pair: tuple[Site, Site]) -> None:
    _, osaka = pair
    await sites.change(osaka.system, "tokyo", login=login_of("osaka"), peer=login_of("tokyo"))
    text = export(osaka.system)
    assert "the secret of" not in text
    assert "[site.tokyo]" in text
    assert await apply(osaka.system, text) == ()
    record = osaka.system.store.get(SiteRecord, "tokyo")
    without = text[: text.index("[site.tokyo]")]
    with pytest.raises(Conflict, match="is offered alpha"):
        await apply(osaka.system, without)
    assert osaka.system.store.get(SiteRecord, "tokyo") == record


async def test_site_of_a_system_file_waits_for_its_secrets(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    await osaka.start()
    await osaka.add(tokyo, without_chap=False)
    text = f"""
        [site.osaka]
        iqn = "{osaka.iqn.upper()}"
        portals = ["{osaka.portal}"]
        chap = {{ user = "tokyo" }}
        peer_chap = {{ user = "osaka" }}
        """
    done = await apply(tokyo.system, text, prune=False)
    assert [(a.verb, a.kind) for a in done] == [
        (Verb.ADD, "chap"), (Verb.ADD, "chap"), (Verb.ADD, "site")
    ]  # fmt: skip
    record = tokyo.system.store.get(SiteRecord, "osaka")
    assert record is not None
    assert (record.iqn, record.initiator) == (osaka.iqn, osaka.initiator)
    await reaches(tokyo.link(osaka), LinkState.REFUSED, "is not given yet")
    await reaches(osaka.link(tokyo), LinkState.REFUSED, "authentication failure")
    await sites.change(tokyo.system, "osaka", login=login_of("tokyo"), peer=login_of("osaka"))
    await reaches(tokyo.link(osaka), LinkState.UP)
    assert (await osaka.link(tokyo).probe()).state is LinkState.UP
    assert await apply(tokyo.system, text, prune=False) == ()


async def test_system_file_changes_and_removes_sites(pair: tuple[Site, Site]) -> None:
    tokyo, osaka = pair
    text = export(osaka.system)
    nothing = text.replace('1 = "alpha"', "")
    (change,) = await apply(osaka.system, nothing, dry_run=True)
    assert (change.verb, change.kind) == (Verb.CHANGE, "site")
    moved = text.replace('offered]\n1 = "alpha"', 'offered]\n4 = "secret"')
    await apply(osaka.system, moved)
    assert {lun: v.name for lun, v in (await tokyo.link(osaka).volumes()).items()} == {4: "secret"}
    with pytest.raises(Conflict, match="not iqn"):
        await apply(osaka.system, text.replace(tokyo.iqn + '"', tokyo.iqn + '2"', 1))
    for bad in ("0", "16384"):
        with pytest.raises(Invalid, match="cannot be offered"):
            await apply(osaka.system, text.replace("offered]\n1", f"offered]\n{bad}"))
    await osaka.system.sites.withdraw("tokyo", "secret")
    await apply(osaka.system, text[: text.index("[site.tokyo]")])
    assert sites.ls(osaka.system) == []
    await reaches(tokyo.link(osaka), LinkState.REFUSED)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('[site.o]\niqn = "iqn.2026-11.a:b"\nportals = ["a:1"]', id="no CHAP said"),
        pytest.param(
            '[site.o]\niqn = "iqn.2026-11.a:b"\nportals = []\nwithout_chap = true', id="nowhere"
        ),
        pytest.param(
            '[site.o]\niqn = "x"\nportals = ["a:1"]\nwithout_chap = true', id="no iSCSI name"
        ),
        pytest.param(
            '[site."A b"]\niqn = "iqn.2026-11.a:b"\nportals = ["a:1"]\nwithout_chap = true',
            id="no name",
        ),
    ],
)
async def test_system_file_with_a_site_that_cannot_be_is_refused(tokyo: Site, text: str) -> None:
    await tokyo.start()
    with pytest.raises(Invalid):
        await apply(tokyo.system, text, prune=False)
    assert sites.ls(tokyo.system) == []


async def test_site_that_is_down_keeps_nobody_waiting(tokyo: Site, osaka: Site) -> None:
    await tokyo.start()
    state = await tokyo.add(osaka)
    assert state.status.state is LinkState.DOWN
    with pytest.raises(SiteUnavailable, match="down"):
        await tokyo.link(osaka).volumes()
    await tokyo.volume("alpha")
    assert tokyo.system.store.get(HostRecord, "h1") is None
