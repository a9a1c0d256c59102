"""What of another site's answers is believed: honest ones, and those that cannot be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.backend.site_reading import (
    MOST_DEVICES,
    READINGS,
    CellList,
    MappingPages,
    OwnDevice,
    PeerRefused,
    SiteMapping,
    VolumeList,
    read_whole,
)
from daiko.command_control.function_table import Known
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function
from daiko.mapping.extent import DeviceId, Extent
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import SiteIn
from daiko.scsi.site_parameters import Descriptor, OtherVersion, Page, Value
from daiko.scsi.site_values import (
    Answer,
    Greeting,
    KnownCode,
    MappedDevice,
    MappedExtent,
    OfferedVolume,
    PeerCell,
    PeerReach,
)

ACTION = int(SiteIn.VOLUME_MAPPING)
VERSION = (1, 2)
NAA = bytes.fromhex("602da100000000000000000000000001")
DESIGNATOR = bytes.fromhex("01030010") + NAA
VOLUME = OfferedVolume(1, "alpha", 512, 16, NAA)
SD1 = MappedDevice(
    0, "sd1/0", "iqn.2026-11.test:sd1", 0, 1, 512, ("192.0.2.1:3260",), (DESIGNATOR,), True
)
SD2 = MappedDevice(1, "sd2/3", "iqn.2026-11.test:sd2", 3, 2, 512, ("192.0.2.2:3260",))
OWN = MappedDevice(1, "disk/0", "", 0, 0, 512)
FIRST, SECOND = MappedExtent(0, 0, 8, 64), MappedExtent(1, 8, 8, 0)
HONEST: list[Value] = [SD1, SD2, FIRST, SECOND]


class Nothing:
    """A controller that knows none of the peer's devices."""

    def at(self, iqn: str, lun: int) -> OwnDevice | None:
        return None

    def with_naa(self, designator: bytes) -> OwnDevice | None:
        return None


class Ours(Nothing):
    """One that has sd1/0 of the peer attached as `left/0`."""

    def __init__(self, **changes: Any) -> None:
        self.by_naa = changes.pop("by_naa", False)
        values = {"block_size": 512, "blocks": 1024, "designators": (DESIGNATOR,)} | changes
        address = DeviceAddress(
            DeviceId("left", 0), values["block_size"], values["designators"], SD1.iqn,
            SD1.portals, 0,
        )  # fmt: skip
        self.own = OwnDevice(address.device, values["block_size"], values["blocks"], address)

    def at(self, iqn: str, lun: int) -> OwnDevice | None:
        return self.own if (iqn, lun) == (SD1.iqn, 0) and not self.by_naa else None

    def with_naa(self, designator: bytes) -> OwnDevice | None:
        return self.own if designator == DESIGNATOR and self.by_naa else None


def pages_of(values: Sequence[Value], size: int, **header: Any) -> list[bytes]:
    """An answer in pages of `size` descriptors."""
    every = [Descriptor(value.kind_code, value.body()) for value in values]
    fields = {"total": len(every), "generation": 7, "version": VERSION} | header
    return [
        Page(ACTION, tuple(every[at : at + size]), first=at, **fields).pack()
        for at in range(0, len(every) or 1, size)
    ]


class Peer:
    """Answers with what a test gives it, one page after the other, over and over."""

    def __init__(self, *pages: bytes) -> None:
        self.pages = pages
        self.asked: list[int] = []

    async def __call__(self, start: int) -> bytes:
        self.asked.append(start)
        return self.pages[(len(self.asked) - 1) % len(self.pages)]


def read_mapping(
    values: Sequence[Value], volume: OfferedVolume = VOLUME, own: Nothing | None = None
) -> SiteMapping:
    pages = MappingPages("osaka")
    pages.take(values)  # type: ignore[arg-type]
    return pages.mapping(volume, own or Nothing(), 7)


# --- an honest peer


def test_mapping_is_the_volume_under_names_of_the_site() -> None:
    found = read_mapping(HONEST)
    sd1, sd2 = DeviceId("osaka:sd1", 0), DeviceId("osaka:sd2", 3)
    assert list(found.table) == [Extent(0, 8, sd1, 64), Extent(8, 8, sd2, 0)]
    assert found.directory[sd1] == DeviceAddress(
        sd1, 512, (DESIGNATOR,), "iqn.2026-11.test:sd1", ("192.0.2.1:3260",), 0, True
    )
    assert found.portal_group_tags == {sd1: 1, sd2: 2}
    assert (found.generation, found.volume) == (7, VOLUME)


def test_own_disk_of_the_peer_is_reached_by_nobody() -> None:
    found = read_mapping([SD1, OWN, FIRST, SECOND])
    assert found.directory[DeviceId("osaka:disk", 0)].internal


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_pages_of_any_size_make_the_whole(size: int) -> None:
    peer = Peer(*pages_of(HONEST, size))
    whole, generation = await read_whole(peer, ACTION, lambda: MappingPages("osaka"), VERSION)
    assert whole.mapping(VOLUME, Nothing(), generation) == read_mapping(HONEST)
    assert peer.asked == list(range(0, 4, size))


async def test_reading_begins_anew_when_the_generation_changes() -> None:
    old, new = pages_of(HONEST, 2), pages_of(HONEST, 2, generation=8)
    peer = Peer(old[0], new[1], *new)
    _, generation = await read_whole(peer, ACTION, lambda: MappingPages("osaka"), VERSION)
    assert generation == 8
    assert peer.asked == [0, 2, 0, 2]


async def test_kinds_that_are_not_known_are_skipped_and_counted() -> None:
    page = Page.of(ACTION, HONEST)
    every = (Descriptor(99, b"newer"), *page.descriptors, Descriptor(99, b""))
    peer = Peer(Page(ACTION, every, len(every), version=(1, 7)).pack())
    whole, _ = await read_whole(peer, ACTION, lambda: MappingPages("osaka"), (1, 7))
    assert whole.mapping(VOLUME, Nothing(), 0).table == read_mapping(HONEST).table


def test_cells_stand_under_names_of_the_site() -> None:
    cells = CellList("osaka")
    cells.take(
        [
            PeerCell("sd1", 1, Answer.CAN, KnownCode.PROBED, 5, "it said so"),
            PeerCell("sd1", 2, Answer.NOT_KNOWN, KnownCode.NOT_KNOWN, 0, ""),
            PeerCell("sd1", 200, Answer.CAN, KnownCode.PROBED, 5, "a function of later"),
            PeerReach("sd1", "sd2/3", Answer.CANNOT, KnownCode.BY_HAND, 6, "another network"),
            PeerReach("sd1", "vault", Answer.CAN, KnownCode.LEARNED, 6, ""),
        ]
    )
    table = cells.table()
    assert set(table.functions) == {("osaka:sd1", Function.DIRECT_BACKUP)}
    assert table.function("sd1", Function.DIRECT_BACKUP) is None
    reach = table.reaches("osaka:sd1", DeviceId("osaka:sd2", 3))
    assert reach is not None
    assert (reach.can, reach.known) == (False, Known.DECLARED)
    assert table.reaches("osaka:sd1", DeviceId("osaka:vault", 9)) is not None


@pytest.mark.parametrize(
    "own",
    [
        pytest.param(Ours(), id="attached here, too"),
        pytest.param(Ours(by_naa=True), id="known by its identity"),
        pytest.param(Ours(designators=()), id="shows us no identity"),
        pytest.param(Ours(blocks=72), id="just large enough"),
    ],
)
def test_device_that_is_ours_as_well_may_be_as_we_know_it(own: Ours) -> None:
    assert read_mapping(HONEST, own=own).table.blocks == 16


# --- one that is not


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        pytest.param(
            [Page(ACTION, (), 5).pack()], "nothing after descriptor 0", id="nothing comes"
        ),
        pytest.param(
            [*pages_of(HONEST, 2)[:1], Page(ACTION, (), 4, 2, 7).pack()],
            "nothing after descriptor 2",
            id="it stops in the middle",
        ),
        pytest.param(pages_of(HONEST, 2)[:1], "descriptor 0 of 4, not 2", id="the same page again"),
        pytest.param(pages_of(HONEST, 1)[::2], "descriptor 2 of 4, not 1", id="it leaves one out"),
        pytest.param(
            [pages_of(HONEST, 2)[0], pages_of(HONEST, 2, total=9)[1]],
            "of 9, not 2 of 4",
            id="another total",
        ),
        pytest.param([Page(ACTION, (), 2**32 - 1).pack()], "announces 4294967295", id="endless"),
        pytest.param(
            [pages_of(HONEST, 2, generation=n)[n % 2] for n in range(2 * READINGS)],
            f"each of {READINGS} readings",
            id="it changes all the time",
        ),
        pytest.param(
            [pages_of(HONEST, 2)[0], pages_of(HONEST, 2, version=(1, 3))[1]],
            "versions 1.2 and 1.3 by turns",
            id="another version between pages",
        ),
        pytest.param(
            [Page.of(SiteIn.VOLUMES, [VOLUME]).pack()],
            "service action 1, not 2",
            id="an answer to something else",
        ),
        pytest.param([Page.of(ACTION, [VOLUME]).pack()], "OfferedVolume where", id="wrong kind"),
    ],
)
async def test_pages_that_cannot_be_are_refused(pages: list[bytes], words: str) -> None:
    with pytest.raises(PeerRefused, match=words):
        await read_whole(Peer(*pages), ACTION, lambda: MappingPages("osaka"), VERSION)


async def test_other_major_version_between_pages_is_told() -> None:
    pages = [pages_of(HONEST, 2)[0], pages_of(HONEST, 2, version=(2, 0))[1]]
    with pytest.raises(OtherVersion, match=r"2\.0"):
        await read_whole(Peer(*pages), ACTION, lambda: MappingPages("osaka"), VERSION)


def volume(**changes: Any) -> OfferedVolume:
    return replace(VOLUME, **changes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param([], "0 blocks, the volume 16", id="nothing"),
        pytest.param([SD1, FIRST], "8 blocks, the volume 16", id="half of it"),
        pytest.param([*HONEST, MappedExtent(0, 16, 8, 0)], "24 blocks, the volume 16", id="more"),
        pytest.param([SD1, SD2, SECOND], "a gap before block 8", id="not from the start"),
        pytest.param([*HONEST[:3], MappedExtent(1, 9, 7, 0)], "a gap before block 9", id="gap"),
        pytest.param(
            [*HONEST[:3], MappedExtent(1, 4, 12, 0)], "two extents for block 8", id="overlap"
        ),
        pytest.param(
            [SD1, FIRST, MappedExtent(0, 8, 8, 71)], "two extents lie on block 71", id="same blocks"
        ),
        pytest.param([SD1, FIRST, MappedExtent(1, 8, 8, 0)], "device 1, which it", id="no device"),
        pytest.param(
            [*HONEST[:3], SECOND._replace(device=0)], "mapping of alpha", id="idle device"
        ),
        pytest.param([SD1, FIRST, SD2, SECOND], "out of order", id="device after extents"),
        pytest.param([SD1, SD1], "out of order", id="device twice"),
        pytest.param([SD2], "out of order", id="numbers with a gap"),
        pytest.param([replace(SD1, name="sd1")], "calls a device", id="no LUN in the name"),
        pytest.param([replace(SD1, name="sd1/4")], "calls LUN 0 sd1/4", id="LUN unlike the name"),
        pytest.param([replace(SD1, name="a:b/0")], "calls a controller", id="name of a third"),
        pytest.param([replace(SD1, portals=("h:0",))], "no portal", id="portal"),
        pytest.param([replace(SD1, iqn="iqn " * 9)], "iSCSI name", id="blanks in a name"),
        pytest.param([replace(SD1, iqn="i" * 224)], "iSCSI name", id="long name"),
        pytest.param(
            [replace(SD1, block_size=4096), *HONEST[1:]], "under it 4096", id="block size"
        ),
        pytest.param(
            [SD1, replace(SD2, name="other/0", iqn=SD1.iqn.upper(), lun=0), FIRST, SECOND],
            "are one LU",
            id="one LU by two names",
        ),
        pytest.param(
            [SD1, replace(SD2, designators=(DESIGNATOR,)), FIRST, SECOND],
            "are one LU",
            id="one identity for two",
        ),
        pytest.param(
            [SD1, replace(SD1, number=1), FIRST, SECOND], "are one LU", id="one name for two"
        ),
    ],
)
def test_mapping_that_cannot_be_is_refused(values: list[Value], words: str) -> None:
    with pytest.raises(PeerRefused, match=words):
        read_mapping(values)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        pytest.param(Ours(block_size=4096), "our left/0, whose blocks have 4096", id="block size"),
        pytest.param(Ours(blocks=71), "reaches block 72 of sd1/0", id="size"),
        pytest.param(Ours(blocks=71, by_naa=True), "reaches block 72", id="size, by identity"),
        pytest.param(Ours(block_size=4096, by_naa=True), "4096", id="block size, by identity"),
        pytest.param(
            Ours(designators=(DESIGNATOR[:-1] + b"\x02",)), "another identity", id="identity"
        ),
    ],
)
def test_device_that_is_ours_with_another_geometry_is_refused(own: Ours, words: str) -> None:
    with pytest.raises(PeerRefused, match=words):
        read_mapping(HONEST, own=own)


def test_devices_of_a_volume_are_bounded() -> None:
    pages = MappingPages("osaka")
    device = replace(OWN, designators=())
    pages.take([replace(device, number=n, name=f"d{n}/0") for n in range(MOST_DEVICES)])
    with pytest.raises(PeerRefused, match="more than 4096 devices"):
        pages.take([replace(device, number=MOST_DEVICES)])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param([VOLUME, VOLUME], "twice", id="twice"),
        pytest.param([VOLUME, volume(lun=2, naa=NAA[:-1] + b"\2")], "twice", id="one name for two"),
        pytest.param([VOLUME, volume(lun=2, name="beta")], "twice", id="one identity for two"),
        pytest.param([volume(name="../etc")], "calls a volume", id="a name that none may have"),
        pytest.param([FIRST], "MappedExtent where volumes", id="wrong kind"),
    ],
)
def test_list_of_volumes_that_cannot_be_is_refused(values: list[Any], words: str) -> None:
    with pytest.raises(PeerRefused, match=words):
        VolumeList().take(values)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(PeerCell("a:b", 1, Answer.CAN, KnownCode.PROBED, 0, ""), id="cell of a third"),
        pytest.param(PeerReach("b", "c:d/0", Answer.CAN, KnownCode.PROBED, 0, ""), id="reach"),
        pytest.param(PeerReach("b", "c/x", Answer.CAN, KnownCode.PROBED, 0, ""), id="no device"),
        pytest.param(PeerReach("", "c/0", Answer.CAN, KnownCode.PROBED, 0, ""), id="nameless"),
        pytest.param(VOLUME, id="wrong kind"),
    ],
)
def test_cells_that_cannot_be_are_refused(value: Any) -> None:
    with pytest.raises(PeerRefused):
        CellList("osaka").take([value])


small = st.integers(0, 20)
anything = st.lists(
    st.one_of(
        st.builds(MappedExtent, st.integers(0, 2), small, st.integers(1, 12), small),
        st.sampled_from([SD1, SD2, OWN, VOLUME]),
    ),
    max_size=6,
)


@given(anything, st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_whatever_a_peer_sends_is_a_mapping_of_the_volume_or_refused(
    values: list[Any], sizes: list[int]
) -> None:
    async def read() -> None:
        pages = [page for size in sizes for page in pages_of(values, size)]
        try:
            whole, generation = await read_whole(
                Peer(*pages), ACTION, lambda: MappingPages("osaka"), VERSION
            )
            found = whole.mapping(VOLUME, Nothing(), generation)
        except (PeerRefused, MalformedData):
            return
        assert found.table.blocks == VOLUME.blocks
        assert set(found.directory) == set(found.table.devices)

    asyncio.run(read())


def test_greeting_is_no_part_of_a_mapping() -> None:
    with pytest.raises(PeerRefused, match="Greeting where"):
        MappingPages("osaka").take([Greeting(bytes(16), "i", "1", 0, 1, 0, 0)])
