"""A Linux kernel host works on a real LU and on a virtual LU, as a server would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab_peers import LinuxHost
from processes import Daiko, Tgt, image

MIB = 1 << 20

pytestmark = pytest.mark.lab

DISKS = """
if ! iscsiadm -m session > /dev/null 2>&1; then
    iscsiadm -m discovery -t st -p {portal} > /dev/null
    iscsiadm -m node -p {portal} -l > /dev/null
fi
for turn in $(seq 200); do [ "$(lsscsi -g | grep -c DAIKO)" -ge 3 ] && break; sleep 0.05; done
disk() {{
    lsscsi -g | grep DAIKO | grep "^\\[[0-9]*:0:0:$1\\]" | grep -o "/dev/s[dg][a-z0-9]*" | xargs
}}
"""
"""Log in, wait for the three disks, and define `disk LUN`: its sd and sg names."""


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daiko]:
    folder = tmp_path_factory.mktemp("second")
    with Daiko(folder, image(folder / "a", 64 * MIB), name="second", mode="local") as daiko:
        yield daiko


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tgt]:
    folder = tmp_path_factory.mktemp("old")
    with Tgt(folder, image(folder / "a", 64 * MIB)) as tgt:
        yield tgt


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, second: Daiko, old: Tgt) -> Iterator[Daiko]:
    """LUN 0: a real LU. LUN 1: a virtual LU over two controllers. LUN 2: another real LU."""
    folder = tmp_path_factory.mktemp("first")
    with Daiko(
        folder,
        image(folder / "a", 64 * MIB),
        lun={1: [second.url(0), old.url(1)], 2: [image(folder / "b", 64 * MIB)]},
        name="first",
    ) as daiko:
        yield daiko


@pytest.fixture(scope="module")
def host(first: Daiko, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinuxHost]:
    with LinuxHost() as guest:
        guest.run(DISKS.format(portal=first.portal))
        yield guest


@pytest.mark.parametrize("lun", [0, 1], ids=["real LU", "virtual LU"])
def test_file_system_made_filled_and_checked_is_whole(
    host: LinuxHost, first: Daiko, lun: int
) -> None:
    host.run(
        DISKS.format(portal=first.portal)
        + f"""
        set -- $(disk {lun})
        mkfs.ext4 -q -F $1
        mount $1 /mnt
        mkdir /mnt/tree && cp -r /usr/sbin /etc /mnt/tree/
        (cd / && find usr/sbin etc -type f | sort | xargs sha256sum > /tmp/sums-{lun})
        sync; umount /mnt
        e2fsck -f -n $1
        blockdev --flushbufs $1
        mount $1 /mnt
        sed 's|  usr/|  /mnt/tree/|; s|  etc/|  /mnt/tree/etc/|' /tmp/sums-{lun} > /tmp/moved
        sha256sum --quiet -c /tmp/moved
        umount /mnt
        """
    )


@pytest.mark.parametrize(("source", "target"), [(0, 2), (1, 2), (2, 1)])
def test_sg_xcopy_copies_between_lus(
    host: LinuxHost, first: Daiko, source: int, target: int
) -> None:
    host.run(
        DISKS.format(portal=first.portal)
        + f"""
        set -- $(disk {source}) $(disk {target})
        head -c 4M /dev/urandom > /tmp/data
        dd if=/tmp/data of=$1 bs=1M seek=3 oflag=direct status=none
        sg_xcopy if=$2 of=$4 bs=512 skip=6144 seek=2048 count=8192 bpt=4096
        dd if=$3 of=/tmp/back bs=1M skip=1 count=4 iflag=direct status=none
        cmp /tmp/data /tmp/back
        """
    )


def test_ddpt_copies_between_real_and_virtual_lu(host: LinuxHost, first: Daiko) -> None:
    # One command a copy: Debian's ddpt 0.97 repeats the first one's addresses otherwise.
    host.run(
        DISKS.format(portal=first.portal)
        + """
        set -- $(disk 0) $(disk 1)
        head -c 2M /dev/urandom > /tmp/data
        dd if=/tmp/data of=$1 bs=1M oflag=direct status=none
        ddpt --xcopy if=$2 of=$4 bs=512 count=4096 bpt=4096
        dd if=$3 of=/tmp/back bs=1M count=2 iflag=direct status=none
        cmp /tmp/data /tmp/back
        """
    )


def test_copy_results_are_reported_to_sg_copy_results(host: LinuxHost, first: Daiko) -> None:
    printed = host.run(
        DISKS.format(portal=first.portal) + "set -- $(disk 1); sg_copy_results -p $2"
    )
    assert "block device --> block device" in printed.lower() or "block device" in printed.lower()
