"""LIO with two target portal groups in two target port groups (ALUA): the first controller goes the
way that is best, and moves when LIO says that another is, without an error to its hosts."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from lab_peers import Lio
from processes import PATIENCE, Daiko, ProcessFailed, free_port, qemu_io

MIB = 1 << 20

pytestmark = pytest.mark.lab

TWO_GROUPS = """
set -e
t=/sys/kernel/config/target; target=$t/iscsi/{iqn}; core=$t/core/rd_mcp_0/lun0
rmdir $target/tpgt_1/np/127.0.0.1:{port}
mkdir $target/tpgt_2 $target/tpgt_2/lun/lun_0
ln -s $core $target/tpgt_2/lun/lun_0/dev
for each in authentication generate_node_acls cache_dynamic_acls demo_mode_write_protect; do
    cat $target/tpgt_1/attrib/$each > $target/tpgt_2/attrib/$each
done
mkdir $target/tpgt_2/np/127.0.0.1:{port}
for n in 1 2; do
    mkdir $core/alua/g$n
    echo 1$n > $core/alua/g$n/tg_pt_gp_id
    echo 3 > $core/alua/g$n/alua_access_type
    echo g$n > $target/tpgt_$n/lun/lun_0/alua_tg_pt_gp
done
echo 1 > $target/tpgt_2/enable
"""
SET_STATE = (
    "echo {state} > /sys/kernel/config/target/core/rd_mcp_0/lun0/alua/g{n}/alua_access_state"
)
OPTIMIZED, NON_OPTIMIZED, STANDBY = 0, 1, 2


class Site:
    """LIO at two portals, and a Daiko with a volume over it."""

    def __init__(self, lio: Lio, other: str, first: Daiko) -> None:
        self.portals = (lio.portal, other)
        self.lio = lio
        self.first = first

    def set(self, number: int, state: int) -> None:
        self.lio.run(SET_STATE.format(n=number, state=state))

    def until_through(self, number: int) -> None:
        """Read until the first controller goes through this portal."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            qemu_io(self.first.url(0), "read -P 7 0 64k")
            detail = self.first.rest("GET", "/v1/backends/lio").json()["detail"]
            if detail == f"through {self.portals[number - 1]}":
                return
        raise ProcessFailed(f"does not go through group {number}, but {detail}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("paths")
    port = free_port()
    with (
        Lio(luns=1, mib=32, options=("--port", str(port))) as lio,
        Daiko(folder, name="first", store=folder / "store") as first,
    ):
        lio.run(TWO_GROUPS.format(iqn=lio.iqn, port=port))
        other = f"127.0.0.1:{port}"
        first.cli("backend", "add", "lio", f"iscsi://{lio.portal}/{lio.iqn}", "--portal", other)
        first.cli("volume", "add", "alpha", "--image", "lio/0")
        first.cli("host", "add", "any", "--initiator", "*", "--lun", "0=alpha")
        qemu_io(first.url(0), "write -P 7 0 1M")
        yield Site(lio, other, first)


def test_session_follows_the_optimized_group(site: Site) -> None:
    site.until_through(1)
    site.set(1, NON_OPTIMIZED)
    site.until_through(2)
    site.set(1, OPTIMIZED)
    site.set(2, NON_OPTIMIZED)
    site.until_through(1)
    site.set(2, OPTIMIZED)


def test_group_that_goes_to_standby_costs_no_i_o(site: Site) -> None:
    site.until_through(1)
    site.set(1, STANDBY)
    qemu_io(site.first.url(0), *(f"write -P 9 {mib}M 1M" for mib in range(2, 6)))
    site.until_through(2)
    site.set(1, OPTIMIZED)
    site.set(2, STANDBY)
    qemu_io(site.first.url(0), *(f"read -P 9 {mib}M 1M" for mib in range(2, 6)))
    site.until_through(1)
    site.set(2, OPTIMIZED)
