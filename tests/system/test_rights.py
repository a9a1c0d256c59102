"""What a host may reach, and what its own copy command leaves behind, over the wire.

Two hosts, alice and bob, with volumes of their own; alice has the backup device, too. What they
see is asked by a tool that nobody here wrote; copy commands are sent by our initiator, because no
such tool sends one that names what it does not see.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from daiko.backend.second_controller import Outcome, SecondController
from daiko.scsi.copy_parameters import ExtendedCopy
from daiko.scsi.cscd import IdentificationCscd
from daiko.scsi.opcode import Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import SenseKey, parse_sense
from daiko.scsi.spc import ExtendedCopyLid1
from daiko.scsi.vpd import Designator
from processes import Daiko, Tgt, image, run

MIB = 1 << 20
BLOCKS = MIB // 512

ALICE, BOB = "iqn.2026-11.com.example:alice", "iqn.2026-11.com.example:bob"


@dataclass
class Site:
    first: Daiko
    alpha: Path
    secret: Path
    vault: Path
    naa: dict[str, bytes]

    def inquiry(self, initiator: str, lun: int) -> str:
        done = run("iscsi-inq", "-i", initiator, self.first.url(lun), check=False)
        return f"{done.returncode} {done.stdout}{done.stderr}"

    def list_of(self, source: bytes, destination: bytes, *, at: int = 0) -> bytes:
        """A copy of the first mebibyte."""
        cscds = tuple(IdentificationCscd(Designator.naa(naa)) for naa in (source, destination))
        return ExtendedCopy(0, 3, cscds, (BlockToBlock(0, 1, BLOCKS, 0, at),)).pack()

    async def copy(self, initiator: str, data: bytes) -> Outcome:
        """The host's EXTENDED COPY."""
        host = SecondController("host", self.first.iqn, [self.first.portal], initiator)
        await host.open()
        try:
            cdb = ExtendedCopyLid1.pack(parameter_list_length=len(data))
            return await host.execute(0, cdb, data)
        finally:
            await host.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("rights")
    alpha, secret = (
        image(folder / f"{name}.img", 2 * MIB, seed=n) for n, name in enumerate(("alpha", "secret"))
    )
    vault = image(folder / "vault.img", 4 * MIB)
    sd1 = Daiko(folder, alpha, lun={1: [secret]}, name="sd1", mode="local")
    backup_device = Tgt(folder, vault, name="vault")
    first = Daiko(folder, name="first", store=folder / "first")
    with ExitStack() as stack:
        for process in (sd1, backup_device, first):
            stack.enter_context(process)
        sd1.cli("host", "allow-copy", "any", backup_device.portal)
        document = folder / "system.toml"
        document.write_text(f"""
[backend.sd1]
iqn = "{sd1.iqn}"
portals = ["{sd1.portal}"]
[backend.vault]
iqn = "{backup_device.iqn}"
portals = ["{backup_device.portal}"]
[volume.alpha]
devices = ["sd1/0"]
[volume.secret]
devices = ["sd1/1"]
[volume.vault-lu]
devices = ["vault/1"]
[host.alice]
initiators = ["{ALICE}"]
luns = {{ 0 = "alpha", 1 = "vault-lu" }}
[host.bob]
initiators = ["{BOB}"]
luns = {{ 0 = "secret" }}
""")
        first.cli("apply", str(document))
        shown = json.loads(first.cli("volume", "ls", "--json").stdout)
        naa = {volume["name"]: bytes.fromhex(volume["naa"]) for volume in shown}
        yield Site(first, alpha, secret, vault, naa)


def test_lun_that_a_host_is_not_given_does_not_exist_for_it(site: Site) -> None:
    assert "Vendor:DAIKO" in site.inquiry(ALICE, 1)
    assert "Vendor:DAIKO" in site.inquiry(BOB, 0)
    # bob has no LUN 1: as if nothing had ever been there.
    said = site.inquiry(BOB, 1)
    assert said == site.inquiry(BOB, 7).replace("/7", "/1")
    assert "Vendor:DAIKO" not in said
    listed = run("iscsi-ls", "-i", BOB, "-s", f"iscsi://{site.first.portal}").stdout
    assert "Lun:0" in listed
    assert "Lun:1" not in listed


def test_initiator_that_nobody_knows_sees_no_target_and_may_not_log_in(site: Site) -> None:
    stranger = "iqn.2026-11.com.example:stranger"
    listed = run("iscsi-ls", "-i", stranger, f"iscsi://{site.first.portal}", check=False).stdout
    assert site.first.iqn not in listed
    assert "Vendor" not in site.inquiry(stranger, 0)


@pytest.mark.parametrize("direction", ["read", "overwrite"])
async def test_copy_that_names_another_hosts_lu_is_answered_as_if_there_were_none(
    site: Site, direction: str
) -> None:
    """The attack of CVE-2020-28374."""
    before = (site.secret.read_bytes(), site.vault.read_bytes(), site.alpha.read_bytes())

    def attack(theirs: bytes) -> bytes:
        pair = (
            (theirs, site.naa["vault-lu"]) if direction == "read" else (site.naa["alpha"], theirs)
        )
        return site.list_of(*pair)

    answers = [
        await site.copy(ALICE, attack(theirs))
        for theirs in (site.naa["secret"], b"\x60" + bytes(15))
    ]
    assert answers[0].status == Status.CHECK_CONDITION
    assert answers[0] == answers[1]
    refusal = parse_sense(answers[0].sense)
    assert (refusal.key, refusal.asc, refusal.ascq) == (SenseKey.COPY_ABORTED, 0x0D, 0x02)
    assert (site.secret.read_bytes(), site.vault.read_bytes(), site.alpha.read_bytes()) == before


async def test_backup_asked_for_by_a_host_has_the_report_of_an_administrators(site: Site) -> None:
    answer = await site.copy(
        ALICE, site.list_of(site.naa["alpha"], site.naa["vault-lu"], at=BLOCKS)
    )
    assert answer.status == Status.GOOD
    assert site.vault.read_bytes()[MIB : 2 * MIB] == site.alpha.read_bytes()[:MIB]
    place = ("--range", f"0:{BLOCKS}", "--at", str(2 * BLOCKS))
    site.first.cli("backup", "run", "alpha", "--to", "vault-lu", *place)
    assert site.vault.read_bytes()[2 * MIB : 3 * MIB] == site.alpha.read_bytes()[:MIB]
    administrators, hosts = json.loads(site.first.cli("backup", "ls", "--json").stdout)
    assert hosts["asked_by"] == f"host alice ({ALICE})"
    assert (hosts["source"], hosts["destination"]) == ("alpha", "vault-lu")
    assert hosts["restorable"]
    for report in (administrators, hosts):
        (step,) = report["steps"]
        assert step["executor"] == "second controller sd1"
        assert step["bytes_through_first_controller"] == 0
        assert step["bytes_moved"] == MIB
    differing = {"seconds", "destination_lba"}
    same = [
        {name: value for name, value in report["steps"][0].items() if name not in differing}
        for report in (administrators, hosts)
    ]
    assert same[0] == same[1]
