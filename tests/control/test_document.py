"""The TOML document of a whole system: what it may say, and that it survives being written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.command_control.function_table import CopyLimits
from daiko.command_control.plan import Function, Mode
from daiko.control.document import (
    BackendPart,
    Document,
    FunctionPart,
    HostPart,
    PairPart,
    PortalGroupPart,
    ReachPart,
    SystemPart,
    VolumePart,
    parse_size,
)
from daiko.control.error import Invalid
from daiko.state.pair_record import Fence
from daiko.state.record import (
    ExtentRecord,
    GroupState,
    PortalGroupRecord,
    TargetPortGroupRecord,
    VolumeAccess,
)

EVERYTHING = """
[system]
iqn = "iqn.2026-11.com.example:d"
mode = "direct"

[portal_group.1]
portals = ["127.0.0.1:3260", "[::1]:3260"]

[portal_group.20]
portals = ["192.0.2.20:3260"]
target_port_group = 2

[target_port_group.2]
state = "active-non-optimized"
preferred = true

[backend.sd1]
iqn = "iqn.2026-11.com.example:sd1"
portals = ["192.0.2.1:3260"]

[backend.disk]
path = "/srv/disk.img"
block_size = 4096
preallocate = true

[volume.alpha]
extents = [{ device = "sd1/0", lba = 0, blocks = 4096 }, { device = "sd1/1", lba = 8, blocks = 1 }]
mode = "delegate"

[volume.beta]
size = "10 GiB"
from = ["sd1/0", "disk/0"]

[volume.old]
image = "sd1/2"
naa = "602da10123456789abcdef0123456789"
access = { 2 = { state = "standby" } }

[volume.both]
devices = ["sd1/3", "sd1/4"]

[host.h1]
initiators = ["iqn.2026-11.com.example:h1"]
luns = { 0 = "alpha", 10 = "beta" }
portal_groups = [1, 20]
remote_copy = ["192.0.2.9:3260"]

[pair.mirror]
primary = "alpha"
secondary = "osaka:beta"
group = "database"
fence = "data"
granularity = "128 KiB"
power_safe = false
pace = "1024 KiB/s"

[[function]]
backend = "sd1"
function = "direct-backup"
can = true
reason = "the manual says so"
limits = { max_cscds = 2, max_segments = 1, max_list_bytes = 92 }

[[reach]]
backend = "sd1"
device = "vault"
can = false
reason = "firewall"
"""


def test_document_with_everything_is_read() -> None:
    document = Document.parse(EVERYTHING)
    assert document.system == SystemPart(iqn="iqn.2026-11.com.example:d", mode=Mode.DIRECT)
    assert document.portal_group[1].record(1) == PortalGroupRecord(
        tag=1, portals=("127.0.0.1:3260", "[::1]:3260"), target_port_group=1
    )
    assert document.portal_group[20].record(20).target_port_group == 2
    assert document.target_port_group[2].record(2) == TargetPortGroupRecord(
        number=2, state=GroupState.ACTIVE_NON_OPTIMIZED, preferred=True
    )
    assert document.volume["old"].access == {2: VolumeAccess(state=GroupState.STANDBY)}
    assert document.host["h1"].portal_groups == (1, 20)
    assert document.backend["sd1"].record("sd1").portals == ("192.0.2.1:3260",)
    assert document.backend["disk"] == BackendPart(
        path="/srv/disk.img", block_size=4096, preallocate=True
    )
    assert document.volume["alpha"].extents[1] == ExtentRecord(device="sd1/1", lba=8, blocks=1)
    assert document.volume["beta"].source == ("sd1/0", "disk/0")
    assert document.host["h1"].luns == {0: "alpha", 10: "beta"}
    assert document.pair["mirror"] == PairPart(
        primary="alpha",
        secondary="osaka:beta",
        group="database",
        fence=Fence.DATA,
        granularity=128 << 10,
        power_safe=False,
        pace="1MiB/s",
    )
    assert document.pair["mirror"].site == "osaka"
    assert document.function == (
        FunctionPart(
            backend="sd1",
            function=Function.DIRECT_BACKUP,
            can=True,
            reason="the manual says so",
            limits=CopyLimits(max_cscds=2, max_segments=1, max_list_bytes=92),
        ),
    )
    assert document.reach == (
        ReachPart(backend="sd1", device="vault", can=False, reason="firewall"),
    )


def test_document_of_old_has_its_portals_in_the_first_portal_group() -> None:
    document = Document.parse('[system]\nmode = "local"\nportals = ["192.0.2.1:3260"]\n')
    assert document.system == SystemPart(mode=Mode.LOCAL)
    assert document.portal_group == {1: PortalGroupPart(portals=("192.0.2.1:3260",))}


def test_document_with_portals_in_both_places_is_refused() -> None:
    both = '[system]\nportals = ["h:1"]\n[portal_group.1]\nportals = ["h:1"]\n'
    with pytest.raises(Invalid, match="not in `system` as well"):
        Document.parse(both)


def test_document_with_everything_is_the_same_when_written_and_read_again() -> None:
    document = Document.parse(EVERYTHING)
    assert Document.parse(document.text()) == document


NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,10}[a-z0-9])?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
EXTENTS = st.builds(
    ExtentRecord,
    device=st.just("sd1/0"),
    lba=st.integers(0, 2**40),
    blocks=st.integers(1, 2**40),
)
VOLUMES = st.one_of(
    st.builds(VolumePart, extents=st.lists(EXTENTS, min_size=1, max_size=3).map(tuple)),
    st.builds(
        VolumePart, image=st.just("sd1/0"), naa=st.from_regex("6[0-9a-f]{31}", fullmatch=True)
    ),
)
HOSTS = st.builds(
    HostPart,
    initiators=st.lists(TEXTS, max_size=2).map(tuple),
    luns=st.dictionaries(st.integers(0, 16383), NAMES, max_size=3),
    remote_copy=st.lists(TEXTS, max_size=2).map(tuple),
)
REACHES = st.builds(ReachPart, backend=NAMES, device=NAMES, can=st.booleans(), reason=TEXTS)


@given(
    volumes=st.dictionaries(NAMES, VOLUMES, max_size=3),
    hosts=st.dictionaries(NAMES, HOSTS, max_size=3),
    reaches=st.lists(REACHES, max_size=3).map(tuple),
)
def test_any_document_is_the_same_when_written_and_read_again(
    volumes: dict[str, VolumePart], hosts: dict[str, HostPart], reaches: tuple[ReachPart, ...]
) -> None:
    document = Document(volume=volumes, host=hosts, reach=reaches)
    assert Document.parse(document.text()) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "not TOML"),
        ("[sytem]", "sytem"),
        ('[system]\nmode = "fast"', r"system\.mode"),
        ("[backend.a]", r"backend\.a.*either"),
        ('[backend.a]\niqn = "iqn.2026-11.com.example:a"', "belong together"),
        ('[backend.a]\npath = "/a"\niqn = "i"\nportals = ["p:1"]', "either"),
        ("[volume.a]", r"volume\.a.*give one of"),
        ('[volume.a]\nimage = "a/0"\ndevices = ["a/0"]', "give one of"),
        ('[volume.a]\nfrom = ["a/0"]', "give one of"),
        ('[volume.a]\nimage = "a/0"\nnaa = "5000"', r"volume\.a\.naa"),
        ('[pair.a]\nprimary = "a"', r"pair\.a\.secondary"),
        ('[pair.a]\nprimary = "a"\nsecondary = "b"\nfence = "none"', r"pair\.a\.fence"),
        ("[host.a]", r"host\.a\.initiators"),
        ('[host.a]\ninitiators = ["*"]\nluns = { x = "a" }', r"host\.a\.luns"),
        ('[[function]]\nbackend = "a"', r"function\.0\.function"),
    ],
)
def test_document_with_a_fault_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Document.parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4096", 4096),
        (4096, 4096),
        ("512B", 512),
        ("1KiB", 1 << 10),
        ("512 MiB", 512 << 20),
        ("10GiB", 10 << 30),
        ("10G", 10 << 30),
        ("2T", 2 << 40),
    ],
)
def test_size_is_read_in_powers_of_1024(text: str | int, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "ten", "-1", "1.5G", "1 PiB", "G"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="no size"):
        parse_size(text)
