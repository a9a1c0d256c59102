"""Reservations over the wire: of two hosts, through a crash of the controller, and against copies.

The hosts are our initiator with hand-made commands; in `test_linux_cluster.py` a Linux kernel
and `sg_persist` do the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from daiko.backend.second_controller import Outcome, SecondController
from daiko.scsi import persistent_reservation as layouts
from daiko.scsi import sbc
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import IdentificationCscd
from daiko.scsi.opcode import Status
from daiko.scsi.persistent_reservation import (
    ReservationType,
    ReserveOutList,
    parse_full_status,
)
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.spc import ExtendedCopyLid1
from daiko.scsi.vpd import Designator
from processes import Daiko, Process, image

MIB = 1 << 20
BLOCKS = 2 * MIB // 512
ALICE, BOB = "iqn.2026-11.com.example:alice", "iqn.2026-11.com.example:bob"
WE, EA = ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
GOOD, CONFLICT = Status.GOOD, Status.RESERVATION_CONFLICT
WRITE = sbc.Write10.pack(lba=7, transfer_length=1)


@dataclass
class Site:
    """LUN 0 is alpha, a virtual LU over two second controllers; LUN 1 is beta, on one of them."""

    first: Daiko
    alpha: tuple[Path, Path]
    beta: Path
    naa: dict[str, bytes]

    @asynccontextmanager
    async def host(self, initiator: str) -> AsyncIterator[Host]:
        made = SecondController("host", self.first.iqn, [self.first.portal], initiator)
        await made.open()
        try:
            yield Host(made)
        finally:
            await made.close()

    @asynccontextmanager
    async def hosts(self) -> AsyncIterator[tuple[Host, Host]]:
        """alice and bob; without a reservation before and after."""
        self.clear()
        async with AsyncExitStack() as stack:
            alice, bob = [await stack.enter_async_context(self.host(n)) for n in (ALICE, BOB)]
            yield alice, bob
        self.clear()

    def clear(self) -> None:
        for name in ("alpha", "beta"):
            self.first.rest("POST", f"/v1/volumes/{name}/clear-reservations").raise_for_status()


class Host:
    def __init__(self, session: SecondController) -> None:
        self.session = session

    async def run(self, cdb: bytes, data: bytes = b"", read: int = 0, *, lun: int = 0) -> Outcome:
        """A command; a unit attention is taken, and the command sent again."""
        for _ in range(5):
            outcome = await self.session.execute(lun, cdb, data, read)
            sense = parse_sense(outcome.sense) if outcome.sense else None
            if sense is None or sense.key != SenseKey.UNIT_ATTENTION:
                return outcome
        raise AssertionError("unit attentions without end")

    async def out(
        self, action: str, key: int = 0, new_key: int = 0, *, type: int = 0, lun: int = 0,
        **fields: object,
    ) -> int:  # fmt: skip
        data = ReserveOutList(key, new_key, **fields).pack()  # type: ignore[arg-type]
        cdb = getattr(layouts, action).pack(type=type, parameter_list_length=len(data))
        return (await self.run(cdb, data, lun=lun)).status

    async def write(self, *, lun: int = 0) -> int:
        return (await self.run(WRITE, b"w" * 512, lun=lun)).status

    async def copy(self, data: bytes, *, lun: int = 0) -> Outcome:
        cdb = ExtendedCopyLid1.pack(parameter_list_length=len(data))
        return await self.run(cdb, data, lun=lun)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("reservations")
    files = [image(folder / f"{name}.img", 2 * MIB, seed=n) for n, name in enumerate("abc")]
    sd1 = Daiko(folder, files[0], lun={1: [files[2]]}, name="sd1", mode="local")
    sd2 = Daiko(folder, files[1], name="sd2", mode="local")
    first = Daiko(folder, name="first", store=folder / "first")
    with sd1, sd2, first:
        document = folder / "system.toml"
        document.write_text(f"""
[backend.sd1]
iqn = "{sd1.iqn}"
portals = ["{sd1.portal}"]
[backend.sd2]
iqn = "{sd2.iqn}"
portals = ["{sd2.portal}"]
[volume.alpha]
devices = ["sd1/0", "sd2/0"]
[volume.beta]
devices = ["sd1/1"]
[host.alice]
initiators = ["{ALICE}"]
luns = {{ 0 = "alpha", 1 = "beta" }}
[host.bob]
initiators = ["{BOB}"]
luns = {{ 0 = "alpha", 1 = "beta" }}
""")
        first.cli("apply", str(document))
        shown = json.loads(first.cli("volume", "ls", "--json").stdout)
        naa = {volume["name"]: bytes.fromhex(volume["naa"]) for volume in shown}
        yield Site(first, (files[0], files[1]), files[2], naa)


# --- through a crash ------------------------------------------------------------------------------


async def test_reservation_holds_after_kill_9_where_it_is_kept(site: Site) -> None:
    async with site.hosts() as (alice, bob):
        assert await alice.out("Register", 0, 0xA11CE, aptpl=True) == GOOD
        assert await bob.out("Register", 0, 0xB0B, aptpl=True) == GOOD
        assert await alice.out("Reserve", 0xA11CE, type=EA) == GOOD
        before = await alice.run(layouts.ReadFullStatus.pack(allocation_length=512), b"", 512)
        await asyncio.to_thread(_crash, site.first)
        # The initiators log in again by themselves, as the same ports.
        assert await bob.write() == CONFLICT
        assert await alice.write() == GOOD
        after = await bob.run(layouts.ReadFullStatus.pack(allocation_length=512), b"", 512)
        assert parse_full_status(after.data)[1] == parse_full_status(before.data)[1]
        assert parse_full_status(after.data)[0] == 0
        # PREEMPT AND ABORT works on what was read back.
        assert await bob.out("PreemptAndAbort", 0xB0B, 0xA11CE, type=WE) == GOOD
        assert await alice.write() == CONFLICT
        # The last APTPL bit counts: 0, and a crash takes everything away.
        assert await bob.out("Register", 0xB0B, 0xB0B) == GOOD
        await asyncio.to_thread(_crash, site.first)
        assert await alice.write() == GOOD
        read = await alice.run(layouts.ReadFullStatus.pack(allocation_length=64), b"", 64)
        assert parse_full_status(read.data) == (0, ())


def _crash(process: Process) -> None:
    process.kill()
    process.start()


# --- for administrators --------------------------------------------------------------------------


async def test_administrator_sees_and_clears_what_hosts_have(site: Site) -> None:
    async with site.hosts() as (alice, bob):
        await alice.out("Register", 0, 0xA11CE)
        await bob.out("Register", 0, 0xB0B)
        await alice.out("Reserve", 0xA11CE, type=WE)
        shown = site.first.cli("volume", "show", "alpha").stdout
        assert "write exclusive, held by alice" in shown
        assert "0xb0b" in shown
        assert "0xa11ce" in shown
        assert "APTPL is 0" in shown
        assert await bob.write() == CONFLICT
        said = site.first.cli("volume", "clear-reservations", "alpha").stdout
        assert "2 registrations and the reservation" in said
        assert "every host may write to it now" in said
        assert await bob.write() == GOOD
        assert "was not reserved" in site.first.cli("volume", "clear-reservations", "alpha").stdout
        await bob.run(layouts.Reserve6.pack())
        listed = site.first.cli("volume", "reservations", "alpha").stdout
        assert f"by {BOB}" in listed
        assert "no host is registered" in listed


# --- copies ---------------------------------------------------------------------------------------


def copy_list(site: Site, source: str, destination: str) -> bytes:
    """All of beta's size, from one volume's start to the other's; two segments."""
    cscds = tuple(IdentificationCscd(Designator.naa(site.naa[n])) for n in (source, destination))
    half = BLOCKS // 2
    segments = (BlockToBlock(0, 1, half, 0, 0), BlockToBlock(0, 1, half, half, half))
    return ExtendedCopy(0, 3, cscds, segments).pack()


@pytest.mark.parametrize(
    ("source", "destination", "type", "refused"),
    [
        pytest.param("alpha", "beta", WE, "destination", id="into what another may write alone"),
        pytest.param("alpha", "beta", EA, "destination", id="into what another has alone"),
        pytest.param("beta", "alpha", EA, "source", id="out of what another has alone"),
        pytest.param("beta", "alpha", WE, None, id="out of what others may read"),
        pytest.param("alpha", "beta", WE_RO, "destination", id="into the registrants' own"),
    ],
)
async def test_copy_is_held_to_the_reservation_of_each_lu(
    site: Site, source: str, destination: str, type: ReservationType, refused: str | None
) -> None:
    """beta is bob's; alice sends her copy to alpha, which is nobody's."""
    before = [file.read_bytes() for file in (*site.alpha, site.beta)]
    async with site.hosts() as (alice, bob):
        assert await bob.out("Register", 0, 0xB0B, lun=1) == GOOD
        assert await bob.out("Reserve", 0xB0B, type=type, lun=1) == GOOD
        outcome = await alice.copy(copy_list(site, source, destination))
        if refused is None:
            assert outcome.status == GOOD
            return
        assert outcome.status == Status.CHECK_CONDITION
        sense = parse_sense(outcome.sense)
        assert (sense.key, sense.asc, sense.ascq) == (SenseKey.COPY_ABORTED, 0x0D, 0x01)
        assert (sense.segment, sense.information) == (0, None)
        forwarded = getattr(sense, refused)
        assert forwarded is not None
        assert forwarded.status == CONFLICT
        assert sense.field is not None
        assert sense.field.byte == (16 if refused == "source" else 48)
        assert [file.read_bytes() for file in (*site.alpha, site.beta)] == before
        # Registered where that is enough, she may.
        if type is WE_RO:
            assert await alice.out("Register", 0, 0xA11CE, lun=1) == GOOD
            assert (await alice.copy(copy_list(site, source, destination))).status == GOOD


async def test_copy_to_a_receiver_that_another_has_reserved_conflicts(site: Site) -> None:
    async with site.hosts() as (alice, bob):
        await bob.out("Register", 0, 0xB0B)
        await bob.out("Reserve", 0xB0B, type=WE)
        assert (await alice.copy(copy_list(site, "alpha", "beta"))).status == CONFLICT


async def test_administrators_copy_passes_a_reservation(site: Site) -> None:
    async with site.hosts() as (_, bob):
        await bob.out("Register", 0, 0xB0B, lun=1)
        await bob.out("Reserve", 0xB0B, type=EA, lun=1)
        site.first.cli("copy", "run", "alpha", "beta", "--range", "0:64", "--at", "100")
    written = site.beta.read_bytes()[100 * 512 : 164 * 512]
    assert written == site.alpha[0].read_bytes()[: 64 * 512]
