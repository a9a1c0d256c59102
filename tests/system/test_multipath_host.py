"""A Linux kernel host with two paths: dm-multipath follows the access states (ALUA), a path that is
taken away costs no I/O, and a volume that grows is enlarged with its file system mounted.

One guest for the whole scenario; the tests go through it in their order.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab_peers import LinuxHost
from processes import Daiko, free_port, image

MIB = 1 << 20

pytestmark = pytest.mark.lab

FUNCTIONS = """
MAP=/dev/mapper/$(ls /dev/mapper | grep ^3 | head -n 1)
# Wait until a command prints what is expected (an extended regular expression).
until_seen() {
    local wanted=$1; shift
    for turn in $(seq 100); do "$@" 2>&1 | grep -Eq -- "$wanted" && return 0; sleep 0.1; done
    echo "not seen: $wanted in: $*"; "$@"; return 1
}
# A path in this access state.
disk_in() {
    local found=$(grep -l "^$1" /sys/class/scsi_device/*/device/access_state | head -n 1)
    ls $(dirname $found)/block
}
paths() { multipathd show paths format "%d %t %T %p"; }
"""

SET_UP = """
/lib/systemd/systemd-udevd --daemon; udevadm trigger -s block -s scsi_generic; udevadm settle
modprobe -a dm_multipath dm_service_time scsi_dh_alua
cat > /etc/multipath.conf <<CONF
defaults {
    user_friendly_names no
    find_multipaths no
    path_grouping_policy group_by_prio
    prio alua
    failback immediate
    no_path_retry 30
    polling_interval 1
    max_polling_interval 1
}
CONF
multipathd
iscsiadm -m discovery -t st -p %s > /dev/null
iscsiadm -m node -l > /dev/null
for turn in $(seq 200); do ls /dev/mapper | grep -q ^3 && break; sleep 0.1; done
"""


class Site:
    """A Daiko with two portal groups, and a host that is logged in through both."""

    def __init__(self, daiko: Daiko, second: str, host: LinuxHost) -> None:
        self.daiko = daiko
        self.second = second
        self.host = host

    def run(self, script: str) -> str:
        return self.host.run(FUNCTIONS + script)

    def states(self) -> list[tuple[str, bool]]:
        """Of the target port groups for the volume, and whether a host has set them."""
        shown = self.daiko.rest("GET", "/v1/target-port-groups?volume=lun0").json()
        return [(group["state"], group["by_host"]) for group in shown]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("paths")
    second = f"127.0.0.1:{free_port()}"
    with (
        Daiko(
            folder,
            image(folder / "a", 64 * MIB),
            store=folder / "store",
            name="paths",
            options=["--portal", f"{second},2"],
        ) as daiko,
        LinuxHost() as host,
    ):
        # Else Linux makes the path that it happens to choose first an optimized one.
        daiko.cli("system", "set", "--no-hosts-set-states")
        daiko.cli("portal", "set-state", "2", "active-non-optimized")
        host.run(SET_UP % daiko.portal)
        yield Site(daiko, second, host)


def test_discovery_tells_both_portals_with_their_tags(site: Site) -> None:
    said = site.run(f"iscsiadm -m discovery -t st -p {site.daiko.portal}")
    assert [line.split()[0] for line in said.splitlines()] == [
        f"{site.daiko.portal},1",
        f"{site.second},2",
    ]


def test_paths_have_the_priorities_of_their_states(site: Site) -> None:
    said = site.run("until_seen 'prio=50' multipath -ll; until_seen 'prio=10' multipath -ll")
    assert not said
    shown = site.run("multipath -ll; cat /sys/class/scsi_device/*/device/access_state")
    assert "hwhandler='1 alua'" in shown
    assert sorted(shown.splitlines()[-2:]) == ["active/non-optimized", "active/optimized"]
    assert "supports implicit TPGS" in site.run("dmesg | grep -i 'alua: supports'")


def test_host_follows_what_the_administrator_sets_while_it_works(site: Site) -> None:
    site.run(
        "fio --name=load --filename=$MAP --rw=randrw --bs=4k --direct=1 --ioengine=libaio "
        "--iodepth=4 --rate_iops=100 --size=16m --offset=32m --verify=crc32c --time_based "
        "--runtime=6 --thread > /tmp/fio.log 2>&1 & echo $! > /tmp/fio.pid; "
        "until_seen . cat /tmp/fio.pid"
    )
    site.daiko.cli("portal", "set-state", "2", "active-optimized")
    site.daiko.cli("portal", "set-state", "1", "standby")
    assert not site.run("until_seen 'ghost +1 *$' paths; until_seen 'ready +50' paths")
    done = site.run(
        "while kill -0 $(cat /tmp/fio.pid) 2> /dev/null; do sleep 0.1; done; cat /tmp/fio.log"
    )
    assert "err= 0" in done
    site.daiko.cli("portal", "set-state", "1", "active-optimized")
    site.daiko.cli("portal", "set-state", "2", "active-non-optimized")
    assert not site.run("until_seen 'ready +50' paths; until_seen 'ready +10' paths")


def test_state_that_the_host_sets_is_the_volumes_and_shown_as_such(site: Site) -> None:
    set_state = "sg_stpg --tp=2 --state=2 /dev/$(disk_in active/optimized)"
    site.run(f"{set_state} > /dev/null 2>&1 || true")
    assert site.states() == [("active-optimized", False), ("active-non-optimized", False)]
    site.daiko.cli("system", "set", "--hosts-set-states")
    # (the first command is told of the change)
    site.run(f"{set_state} || {set_state}")
    assert site.states() == [("active-optimized", False), ("standby", True)]
    assert not site.run("until_seen 'ghost +1 *$' paths")
    site.daiko.cli("system", "set", "--no-hosts-set-states")
    site.daiko.cli("portal", "set-state", "2", "default", "--volume", "lun0")
    assert not site.run("until_seen 'ready +10' paths")


def test_volume_grows_under_a_mounted_file_system(site: Site) -> None:
    site.run("mkfs.ext4 -q -F $MAP && mount $MAP /mnt && echo kept > /mnt/file")
    site.daiko.cli("backend", "grow", "a", "--size", "96MiB")
    site.daiko.cli("volume", "grow", "lun0", "--max")
    said = site.run(
        f"""
        iscsiadm -m session -R > /dev/null
        for each in /sys/block/sd*; do until_seen ^{96 * MIB // 512}$ cat $each/size; done
        multipathd resize map $(basename $MAP)
        until_seen ^{96 * MIB}$ blockdev --getsize64 $MAP
        resize2fs $MAP 2>&1
        dd if=/dev/urandom of=/mnt/large bs=1M count=70 status=none && sync
        cat /mnt/file
        umount /mnt
        e2fsck -f -n $MAP > /dev/null 2>&1 && echo clean
        """
    )
    assert "on-line resizing required" in said
    assert said.endswith("kept\nclean\n")
    assert "capacity" in site.run("dmesg | grep -i capacity").lower()


def test_path_that_is_taken_away_under_load_costs_no_i_o(site: Site) -> None:
    site.run(
        "fio --name=load --filename=$MAP --rw=randrw --bs=4k --direct=1 --ioengine=libaio "
        "--iodepth=4 --rate_iops=100 --size=32m --verify=crc32c --verify_fatal=1 --time_based "
        "--runtime=8 --thread > /tmp/fio.log 2>&1 & echo $! > /tmp/fio.pid; "
        "until_seen . cat /tmp/fio.pid"
    )
    site.daiko.cli("portal", "rm", site.second)
    site.daiko.cli("portal", "add", site.second, "--tag", "2")
    site.daiko.cli("portal", "set-state", "1", "offline")
    done = site.run(
        "while kill -0 $(cat /tmp/fio.pid) 2> /dev/null; do sleep 0.1; done; cat /tmp/fio.log"
    )
    assert "err= 0" in done
    site.daiko.cli("portal", "set-state", "1", "active-optimized")
    assert not site.run("until_seen 'ready +50' paths")
