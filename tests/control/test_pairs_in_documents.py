"""Pairs in the document of a system: exported, made, changed, refused, taken away."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from daiko.backend.site_session import LinkState
from daiko.control import pairs, sites
from daiko.control.apply import Action, Verb, apply, export
from daiko.control.document import Document, PairPart
from daiko.control.error import Conflict, ControlError, Invalid, NotFound, Unavailable
from daiko.control.system import System
from daiko.device.awaitable import write
from daiko.pair.settings import PairSettings
from daiko.pair.state import Verb as PairVerb
from daiko.state.pair_record import Fence, PairRecord, PairState, Update
from daiko.state.record import HostRecord, VolumeRecord
from daiko.state.sqlite import SqliteStore
from site_rig import Site, linked, reaches

from .conftest import initial_record

BLOCKS = 1024
SIZE = BLOCKS * 512
NAMES = ("alpha", "beta", "gamma", "delta")
MIRROR = '[pair.p]\nprimary = "alpha"\nsecondary = "beta"\n'


def _volumes(folder: Path, names: tuple[str, ...] = NAMES) -> str:
    text = ""
    for name in names:
        path = folder / f"{name}.img"
        if not path.exists():
            path.write_bytes(random.Random(name).randbytes(SIZE))
        text += f'[backend.{name}-disk]\npath = "{path}"\n'
        extent = f'{{ device = "{name}-disk/0", lba = 0, blocks = {BLOCKS} }}'
        text += f"[volume.{name}]\nextents = [{extent}]\n"
    return text


def _bytes(folder: Path, volume: str) -> bytes:
    return (folder / f"{volume}.img").read_bytes()


def _quick(system: System) -> None:
    system.pairs._workshop = replace(
        system.pairs._workshop, settings=PairSettings(settle_seconds=0.01)
    )


async def _paired(system: System, name: str = "p") -> None:
    (status,) = await pairs.wait(system, name, [PairState.PAIRED], 20)
    assert status.record.state is PairState.PAIRED, status


def _record(system: System, name: str = "p") -> PairRecord:
    found = system.store.get(PairRecord, name)
    assert found is not None
    return found


@pytest.fixture
async def bare(store: SqliteStore, tmp_path: Path) -> AsyncIterator[System]:
    """Nothing but a folder for differential bitmaps."""
    system = await System.start(store, kept_in=tmp_path)
    _quick(system)
    yield system
    await system.stop()


@pytest.fixture
async def system(bare: System, tmp_path: Path) -> System:
    """Four volumes of random bytes; alpha is the primary of p, beta its secondary."""
    await apply(bare, _volumes(tmp_path) + MIRROR, confirmed=True)
    await _paired(bare)
    return bare


async def test_a_pair_is_made_with_what_the_document_says_of_it(
    bare: System, tmp_path: Path
) -> None:
    said = """
        group = "database"
        fence = "data"
        granularity = "128 KiB"
        power_safe = false
        pace = "50MiB/s"
        """
    done = await apply(bare, _volumes(tmp_path) + MIRROR + said, confirmed=True)
    assert done[-1] == Action(
        Verb.ADD,
        "pair",
        "p",
        "beta is kept like alpha",
        lost=f"all {SIZE:,} bytes of beta would be overwritten",
    )
    await _paired(bare)
    assert _bytes(tmp_path, "beta") == _bytes(tmp_path, "alpha")
    record = _record(bare)
    assert (record.group, record.fence, record.granularity) == ("database", Fence.DATA, 128 << 10)
    assert not record.power_safe
    assert record.pace == "50MiB/s"
    assert await apply(bare, _volumes(tmp_path) + MIRROR + said) == ()
    assert await apply(bare, export(bare)) == ()


async def test_an_asynchronous_pair_keeps_its_journal(bare: System, tmp_path: Path) -> None:
    said = """
        update = "async"
        journal = "1 MiB"
        """
    await apply(bare, _volumes(tmp_path) + MIRROR + said, confirmed=True)
    await _paired(bare)
    assert (_record(bare).update, _record(bare).journal) == (Update.ASYNC, 1 << 20)
    assert await apply(bare, export(bare)) == ()


async def test_an_export_makes_the_same_pairs_elsewhere(system: System, tmp_path: Path) -> None:
    await pairs.create(
        system, "q", "gamma", "delta", group="g", fence=Fence.DATA, pace="1MiB/s", confirmed=True
    )
    text = export(system)
    assert "paired" not in text
    before = {r.name: (r.primary, r.secondary) for r in system.store.list(PairRecord)}
    await system.stop()
    other_store = SqliteStore.open(tmp_path / "other")
    await other_store.put(initial_record())
    (tmp_path / "kept").mkdir()
    other = await System.start(other_store, kept_in=tmp_path / "kept")
    _quick(other)
    (tmp_path / "beta.img").write_bytes(bytes(SIZE))
    await apply(other, text, confirmed=True)
    await _paired(other)
    assert _bytes(tmp_path, "beta") == _bytes(tmp_path, "alpha")
    assert {r.name: (r.primary, r.secondary) for r in other_store.list(PairRecord)} == before
    assert export(other) == text
    assert await apply(other, text) == ()
    await other.stop()
    await other_store.close()


async def test_nothing_is_overwritten_that_is_not_confirmed(bare: System, tmp_path: Path) -> None:
    text = _volumes(tmp_path) + MIRROR
    before = export(bare)
    would = await apply(bare, text, dry_run=True)
    with pytest.raises(Conflict, match=f"all {SIZE:,} bytes of beta would be") as caught:
        await apply(bare, text)
    assert "--yes" in caught.value.next_step
    assert export(bare) == before
    assert await apply(bare, text, confirmed=True) == would


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        pytest.param('size = "512KiB"\nfrom = ["{}-disk/0"]', f"all {SIZE:,} bytes", id="size"),
        pytest.param('devices = ["{}-disk/0"]', "all of beta", id="device-not-attached"),
        pytest.param('image = "{}-disk/0"', "all of beta", id="image-not-attached"),
        pytest.param(
            'extents = [{{ device = "far/0", lba = 0, blocks = 1024 }}]',
            "all 1,024 blocks of beta",
            id="block-size-not-known",
        ),
    ],
)
async def test_how_much_is_overwritten_is_said_as_far_as_it_is_known(
    bare: System, volume: str, words: str
) -> None:
    far = '[backend.far]\niqn = "iqn.2026-11.com.example:f"\nportals = ["127.0.0.1:1"]\n'
    text = "".join(f"[volume.{name}]\n{volume.format(name)}\n" for name in ("alpha", "beta"))
    with pytest.raises(Conflict, match=words):
        await apply(bare, far + text + MIRROR)


async def test_size_of_a_new_volume_on_a_known_device_is_known(
    system: System, tmp_path: Path
) -> None:
    text = (
        _volumes(tmp_path, ("gamma", "delta"))
        .replace("volume.", "volume.x")
        .replace("[volume.xdelta]\nextents", "[volume.xdelta]\n# extents")
        .replace("[volume.xdelta]", '[volume.xdelta]\ndevices = ["delta-disk/0"]')
    )
    text += '[pair.x]\nprimary = "xgamma"\nsecondary = "xdelta"\n'
    changes = await apply(system, text, dry_run=True)
    assert changes[-1].lost == f"all {SIZE:,} bytes of xdelta would be overwritten"


async def test_a_pair_that_is_not_in_the_document_is_forgotten(
    system: System, tmp_path: Path
) -> None:
    assert await apply(system, _volumes(tmp_path), prune=False) == ()
    (done,) = await apply(system, _volumes(tmp_path))
    assert (done.verb, done.kind, done.name) == (Verb.REMOVE, "pair", "p")
    assert done.detail == "it is not in the document; both volumes keep what is on them"
    assert system.store.list(PairRecord) == ()
    assert _bytes(tmp_path, "beta") == _bytes(tmp_path, "alpha")
    await write(system.unit("beta").device, 0, bytes(512))


async def test_a_pair_goes_before_its_volumes_do(system: System) -> None:
    done = await apply(system, "")
    assert [(each.kind, each.name) for each in done][:2] == [("pair", "p"), ("volume", "alpha")]
    assert system.store.list(VolumeRecord) == ()


async def test_a_pair_stays_when_what_it_would_go_for_cannot_be_done(
    system: System, tmp_path: Path
) -> None:
    bad = '[host.h]\ninitiators = ["*"]\nluns = { 0 = "nowhere" }\n'
    with pytest.raises(NotFound, match="nowhere"):
        await apply(system, _volumes(tmp_path) + bad)
    assert _record(system).state is PairState.PAIRED
    # A new pair that cannot be, likewise, and a host that could.
    taken = '[pair.q]\nprimary = "gamma"\nsecondary = "delta"\ngroup = "r"\n'
    taken += '[pair.r]\nprimary = "alpha"\nsecondary = "beta"\n'
    good = '[host.h]\ninitiators = ["*"]\n'
    with pytest.raises(Conflict, match="pair r: there is a pair or group r") as caught:
        await apply(system, _volumes(tmp_path) + good + taken, confirmed=True)
    assert caught.value.field == "pair.r.name"
    assert _record(system).state is PairState.PAIRED
    assert system.store.list(HostRecord) == ()


async def test_volumes_of_a_pair_that_goes_may_be_in_a_new_one(
    system: System, tmp_path: Path
) -> None:
    text = _volumes(tmp_path) + '[pair.q]\nprimary = "alpha"\nsecondary = "gamma"\n'
    done = await apply(system, text, confirmed=True)
    assert [(each.verb, each.name) for each in done] == [(Verb.REMOVE, "p"), (Verb.ADD, "q")]
    await _paired(system, "q")
    assert _bytes(tmp_path, "gamma") == _bytes(tmp_path, "alpha")


async def test_only_the_pace_of_a_pair_is_changed(system: System, tmp_path: Path) -> None:
    text = _volumes(tmp_path) + MIRROR
    before = _record(system)
    done = await apply(system, text + 'pace = "51200 KiB/s"')
    assert done == (Action(Verb.CHANGE, "pair", "p", "copies at pace 50MiB/s"),)
    assert _record(system) == before.model_copy(update={"pace": "50MiB/s"})
    assert await apply(system, text + 'pace = "50MiB/s"') == ()
    await apply(system, text)
    assert _record(system) == before


@pytest.mark.parametrize(
    ("old", "new", "words", "field"),
    [
        ("", 'group = "g"', "has group none, the document says g", "pair.p.group"),
        ("", 'fence = "data"', "has fence never, the document says data", "pair.p.fence"),
        ("", "granularity = 131072", "has granularity 65536, .* 131072", "pair.p.granularity"),
        ("", "power_safe = false", "has power_safe true, .* false", "pair.p.power_safe"),
        ('"beta"', '"gamma"', "is of alpha and beta, .* alpha and gamma", "pair.p"),
        ('"alpha"', '"gamma"', "is of alpha and beta, .* gamma and beta", "pair.p"),
    ],
)
async def test_what_would_be_another_pair_is_refused(
    system: System, tmp_path: Path, old: str, new: str, words: str, field: str
) -> None:
    said = MIRROR.replace(old, new) if old else MIRROR + new
    before = export(system)
    with pytest.raises(Conflict, match=f"pair p {words}") as caught:
        await apply(system, _volumes(tmp_path) + said, confirmed=True)
    assert caught.value.field == field
    assert "`daiko pair rm p` first" in caught.value.next_step
    assert export(system) == before


@pytest.mark.parametrize("verb", [PairVerb.SPLIT, PairVerb.SWAP])
async def test_state_and_roles_of_a_pair_are_left_as_they_are(
    system: System, tmp_path: Path, verb: PairVerb
) -> None:
    text = export(system)
    await pairs.do(system, "p", verb)
    before = _record(system)
    assert (before.state, before.primary) in {
        (PairState.SPLIT, "alpha"),
        (PairState.PAIRED, "beta"),
    }
    assert await apply(system, text) == ()
    assert _record(system) == before
    assert await apply(system, export(system)) == ()


@pytest.mark.parametrize(
    ("part", "error", "words", "field"),
    [
        pytest.param(
            'primary = "alpha"\nsecondary = "nix"', NotFound, "the volume nix", "pair.n.secondary",
            id="no-secondary",
        ),
        pytest.param(
            'primary = "nix"\nsecondary = "beta"', NotFound, "the volume nix", "pair.n.primary",
            id="no-primary",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "nara:b"', NotFound, "the site nara",
            "pair.n.secondary", id="no-site",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "alpha"', Invalid, "no pair with itself",
            "pair.n.secondary", id="itself",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\ngroup = "G"', Invalid, "'G'", "pair.n.group",
            id="group",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\ngroup = "n"', Conflict, "different names",
            "pair.n.group", id="group-of-its-own-name",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\ngranularity = 5000', Invalid, "5000 bytes",
            "pair.n.granularity", id="granularity",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\ngranularity = "much"', Invalid, "no size",
            "pair.n.granularity", id="granularity-in-words",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\nupdate = "async"\njournal = "1 KiB"', Invalid,
            "journal", "pair.n.journal", id="journal",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\npace = "fast"', Invalid, "write it as full",
            "pair.n.pace", id="pace",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "beta"\nstate = "split"', Invalid, "state",
            "pair.n.state", id="state",
        ),
        pytest.param(
            'primary = "alpha"\nsecondary = "small"', Invalid, "small 8 of 512", "pair.n.secondary",
            id="sizes",
        ),
    ],
)  # fmt: skip
async def test_a_pair_that_cannot_be_is_refused_by_its_name_and_nothing_is_done(
    bare: System, tmp_path: Path, part: str, error: type[ControlError], words: str, field: str
) -> None:
    small = '[volume.small]\nextents = [{ device = "gamma-disk/0", lba = 0, blocks = 8 }]\n'
    text = _volumes(tmp_path, ("alpha", "beta")) + small
    text += _volumes(tmp_path, ("gamma",)).partition("[volume")[0]
    with pytest.raises(error, match=words) as caught:
        await apply(bare, f"{text}[pair.n]\n{part}\n", confirmed=True)
    assert caught.value.field == field
    assert bare.store.list(VolumeRecord) == ()


async def test_a_volume_that_a_pair_needs_has_to_be_in_the_document(
    system: System, tmp_path: Path
) -> None:
    text = _volumes(tmp_path, ("alpha", "gamma", "delta")) + MIRROR
    with pytest.raises(NotFound, match="pair p names the volume beta"):
        await apply(system, text)
    assert await apply(system, text, prune=False) == ()


async def test_the_volume_that_hosts_use_is_the_primary_of_an_export(system: System) -> None:
    assert Document.parse(export(system)).pair["p"].primary == "alpha"
    await pairs.do(system, "p", PairVerb.SPLIT)
    assert Document.parse(export(system)).pair["p"].primary == "alpha"
    before = export(system)
    await pairs.do(system, "p", PairVerb.SWAP)
    part = Document.parse(export(system)).pair["p"]
    assert (part.primary, part.secondary) == ("beta", "alpha")
    for text in (before, export(system)):
        assert await apply(system, text) == ()
    assert _record(system).state is PairState.SWAPPED


@pytest.mark.parametrize(
    ("state", "mixture", "primary"),
    [
        (PairState.COPYING, "beta", "alpha"),
        (PairState.SPLIT_BY_ERROR, "beta", "alpha"),
        (PairState.REVERSE_COPYING, "alpha", "beta"),
        (PairState.SPLIT, "alpha", "beta"),
    ],
)
def test_a_mixture_is_not_the_primary_of_an_export(
    state: PairState, mixture: str, primary: str
) -> None:
    record = PairRecord(name="p", primary="alpha", secondary="beta", state=state, mixture=mixture)
    assert PairPart.of(record).primary == primary


# --- over two sites -----------------------------------------------------------------------------


@pytest.fixture
async def osaka(tmp_path: Path, tokyo: Site) -> AsyncIterator[Site]:
    """Linked with tokyo, which has alpha; osaka has beta, and offers it."""
    site = Site(tmp_path, "osaka")
    await linked(tokyo, site)
    _quick(tokyo.system)
    _quick(site.system)
    await tokyo.volume("alpha")
    await site.volume("beta")
    await sites.offer(site.system, "tokyo", "beta")
    (tokyo.folder / "alpha.img").write_bytes(random.Random(1).randbytes(2048 * 512))
    yield site
    await site.stop()


FAR = '[pair.p]\nprimary = "alpha"\nsecondary = "osaka:beta"\n'


async def test_a_pair_over_two_sites_is_in_the_document_of_the_site_that_leads(
    tokyo: Site, osaka: Site
) -> None:
    text = export(tokyo.system) + FAR
    (would,) = await apply(tokyo.system, text, dry_run=True)
    assert would.lost == f"all {2048 * 512:,} bytes of osaka:beta would be overwritten"
    await apply(tokyo.system, text, confirmed=True)
    await _paired(tokyo.system)
    assert (osaka.folder / "beta.img").read_bytes() == (tokyo.folder / "alpha.img").read_bytes()
    assert 'secondary = "osaka:beta"' in export(tokyo.system)
    assert await apply(tokyo.system, text) == ()
    assert await apply(tokyo.system, export(tokyo.system)) == ()

    followed = export(osaka.system)
    assert "[pair" not in followed
    assert await apply(osaka.system, followed) == ()
    own = '[pair.p]\nprimary = "beta"\nsecondary = "tokyo:alpha"\n'
    with pytest.raises(Conflict, match="site tokyo leads pair p"):
        await apply(osaka.system, followed + own, confirmed=True)
    assert _record(osaka.system).is_followed

    done = await apply(tokyo.system, "")
    assert [each.kind for each in done] == ["pair", "site", "volume", "backend"]
    await osaka.until(lambda: osaka.system.store.list(PairRecord) == ())


async def test_a_pair_is_made_with_a_site_that_the_same_document_names(
    tokyo: Site, osaka: Site
) -> None:
    text = export(tokyo.system) + FAR
    await sites.remove(tokyo.system, "osaka")
    done = await apply(tokyo.system, text, confirmed=True)
    assert [each.kind for each in done] == ["site", "pair"]
    await _paired(tokyo.system)


async def test_a_site_that_does_not_answer_leaves_all_but_the_pair_done(
    tokyo: Site, osaka: Site
) -> None:
    text = export(tokyo.system) + FAR + '[host.h]\ninitiators = ["*"]\n'
    await osaka.stop()
    await reaches(tokyo.system.sites.link("osaka"), LinkState.DOWN)
    with pytest.raises(Unavailable, match="pair p: site osaka") as caught:
        await apply(tokyo.system, text, confirmed=True)
    assert caught.value.field == "pair.p"
    assert caught.value.next_step.endswith("then apply again: all but the pairs is done")
    assert tokyo.system.store.get(HostRecord, "h") is not None
    assert tokyo.system.store.list(PairRecord) == ()
    await osaka.start()
    await reaches(tokyo.system.sites.link("osaka"), LinkState.UP)
    (done,) = await apply(tokyo.system, text, confirmed=True)
    assert (done.verb, done.kind) == (Verb.ADD, "pair")
    await _paired(tokyo.system)


async def test_a_volume_that_is_not_offered_is_named(tokyo: Site, osaka: Site) -> None:
    text = export(tokyo.system) + FAR.replace(":beta", ":other")
    with pytest.raises(NotFound, match="pair p: site osaka offers us no volume other") as caught:
        await apply(tokyo.system, text, confirmed=True)
    assert caught.value.field == "pair.p.secondary"
    assert tokyo.system.store.list(PairRecord) == ()
