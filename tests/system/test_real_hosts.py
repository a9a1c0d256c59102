"""What a Linux host does with its disks, on a virtual LU that spans a Daiko and tgt and on one that
is large and thin: file systems, verified load, discards, several paths, the tools that clusters and
backup programs use; and a machine that boots from an LU."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab_peers import LinuxHost, system_disk
from network_path import NetworkPath
from processes import Daiko, Tgt, image, run

MIB = 1 << 20

pytestmark = pytest.mark.lab

LOG_IN = """
iscsiadm -m node -o new -T {iqn} -p {portal} > /dev/null
iscsiadm -m node -T {iqn} -p {portal} -o update -n node.session.timeo.replacement_timeout -v 1
iscsiadm -m node -T {iqn} -p {portal} -l > /dev/null
"""
TOOLS = """
wait_for() {{
    for turn in $(seq 400); do eval "$1" && return; sleep 0.05; done
    echo "never: $1" >&2; false
}}
paths() {{ lsscsi -g | grep -c "^\\[[0-9]*:0:0:$1\\].*DAIKO.*/dev/sd.*/dev/sg" || true; }}
disk() {{ lsscsi -g | grep "^\\[[0-9]*:0:0:$1\\].*DAIKO" | grep -o "/dev/s[dg][a-z0-9]*" | xargs; }}
wait_for '[ $(paths 0) -ge 1 ] && [ $(paths 1) -ge 1 ]'
set -- $(disk {lun})
"""
"""Wait for the disks; `$1` is the sd name of the LUN, `$2` its sg name."""


@dataclass
class Site:
    """The controllers and the host."""

    first: Daiko
    second: Daiko
    file: Path
    """The second controller's file under LUN 0."""
    host: LinuxHost

    def run(self, lun: int, script: str) -> str:
        return self.host.run(TOOLS.format(lun=lun) + script)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """LUN 0: 320 MiB, thin, in one Daiko. LUN 1: 128 MiB, half in that Daiko, half in tgt."""
    folder = tmp_path_factory.mktemp("site")
    large, half, other = (
        image(folder / name, size * MIB) for name, size in (("a", 320), ("b", 64), ("c", 64))
    )
    with (
        Daiko(folder, large, lun={1: [half]}, mode="local", name="second") as second,
        Tgt(folder, other) as tgt,
        Daiko(folder, second.url(0), lun={1: [second.url(1), tgt.url(1)]}, name="first") as first,
        LinuxHost() as host,
    ):
        host.run(LOG_IN.format(iqn=first.iqn, portal=first.portal))
        yield Site(first, second, large, host)


@pytest.mark.parametrize(
    ("lun", "make", "check"),
    [
        pytest.param(0, "modprobe xfs; mkfs.xfs -q -f", "xfs_repair -n", id="XFS"),
        pytest.param(1, "mkfs.ext4 -q -F", "e2fsck -f -n", id="ext4"),
    ],
)
def test_file_system_is_made_filled_and_whole(site: Site, lun: int, make: str, check: str) -> None:
    site.run(
        lun,
        f"""
        {make} $1
        mount $1 /mnt
        cp -r /usr/sbin /mnt/
        (cd /usr/sbin && find . -type f | sort | xargs sha256sum > /tmp/sums)
        sync; umount /mnt
        {check} $1
        blockdev --flushbufs $1
        mount $1 /mnt
        (cd /mnt/sbin && sha256sum --quiet -c /tmp/sums)
        umount /mnt
        {check} $1
        """,
    )


@pytest.mark.parametrize("lun", [0, 1], ids=["one back end", "two back ends"])
def test_mixed_random_load_finds_what_it_wrote(site: Site, lun: int) -> None:
    site.run(
        lun,
        """
        fio --name=mixed --filename=$1 --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw \
            --bsrange=4k-64k --size=48m --io_size=24m --randseed=7 \
            --verify=crc32c --verify_fatal=1 --do_verify=1 --output=/tmp/fio ||
            { cat /tmp/fio; false; }
        grep -q "err= 0" /tmp/fio
        """,
    )


def test_discard_gives_the_room_back_in_the_back_end(site: Site) -> None:
    def room() -> int:
        return site.file.stat().st_blocks * 512

    site.run(0, "dd if=/dev/urandom of=$1 bs=1M count=32 oflag=direct status=none")
    full = room()
    site.run(0, "blkdiscard -o 0 -l $((32 << 20)) $1")
    assert full - room() >= 32 * MIB
    site.run(
        0,
        """
        mkfs.ext4 -q -F -E nodiscard $1; mount $1 /mnt
        dd if=/dev/urandom of=/mnt/file bs=1M count=24 conv=fsync status=none
        """,
    )
    full = room()
    site.run(0, "rm /mnt/file; sync; fstrim /mnt; umount /mnt")
    assert full - room() >= 23 * MIB


MULTIPATH = """
cat > /etc/multipath.conf <<END
defaults {{
    find_multipaths no
    polling_interval 1
    max_polling_interval 1
}}
overrides {{
    no_path_retry queue
    path_grouping_policy multibus
}}
END
if ! pidof multipathd > /dev/null; then
    /lib/systemd/systemd-udevd --daemon
    udevadm trigger -s block -s scsi_generic; udevadm settle
    modprobe -a dm_multipath dm_service_time scsi_dh_alua
    multipathd
fi
map=$(/lib/udev/scsi_id -g -u $1)
ready() {{ multipath -ll $map 2> /dev/null | grep -c "active ready" || true; }}
failed() {{ multipath -ll $map 2> /dev/null | grep -c "failed" || true; }}
wait_for '[ $(ready) -eq {ready} ]'
"""


async def test_cut_path_under_load_costs_no_error_and_comes_back(site: Site) -> None:
    async with NetworkPath(site.first.port) as other:
        await asyncio.to_thread(
            site.run,
            1,
            LOG_IN.format(iqn=site.first.iqn, portal=other.portal)
            + "wait_for '[ $(paths 1) -eq 2 ]'\n"
            + MULTIPATH.format(ready=2),
        )
        # Amid the load: after so many bytes by this path.
        other.cut_after(other.passed + 4 * MIB)
        await asyncio.to_thread(
            site.run,
            1,
            MULTIPATH.format(ready=2)
            + """
            fio --name=load --filename=/dev/mapper/$map --direct=1 --ioengine=libaio --iodepth=16 \
                --rw=randrw --bs=16k --size=48m --io_size=32m --randseed=9 \
                --verify=crc32c --verify_fatal=1 --do_verify=1 --output=/tmp/fio ||
                { cat /tmp/fio; false; }
            grep -q "err= 0" /tmp/fio
            wait_for '[ $(failed) -ge 1 ]'
            """,
        )
        assert not other.is_open
        await other.open()
        await asyncio.to_thread(
            site.run,
            1,
            MULTIPATH.format(ready=2)
            + f"""
            multipath -f $map
            pkill multipathd
            wait_for '! pidof multipathd > /dev/null'
            iscsiadm -m node -T {site.first.iqn} -p {other.portal} -u > /dev/null
            wait_for '[ $(paths 1) -eq 1 ]'
            """,
        )


def test_tools_of_hosts_work_on_an_lu_that_spans_two_controllers(site: Site) -> None:
    """The boundary of the two lies at block 131,072: what the tools do goes over it."""
    site.run(
        1,
        r"""
        at=131040
        head -c 32768 /dev/urandom > /tmp/data
        dd if=/tmp/data of=$1 bs=512 seek=$at oflag=direct status=none

        # COMPARE AND WRITE: with the right data, then with what is not there any more
        dd if=/tmp/data bs=512 skip=31 count=2 status=none > /tmp/compare
        head -c 1024 /dev/urandom > /tmp/write
        cat /tmp/compare /tmp/write > /tmp/both
        sg_compare_and_write --lba=$((at + 31)) --num=2 --xferlen=2048 --in=/tmp/both $2
        if sg_compare_and_write --lba=$((at + 31)) --num=2 --xferlen=2048 --in=/tmp/both $2 \
            2> /tmp/said; then false; fi
        grep -qi miscompare /tmp/said
        dd if=$1 bs=512 skip=$((at + 31)) count=2 iflag=direct status=none | cmp - /tmp/write

        # WRITE SAME of a pattern
        head -c 512 /dev/urandom > /tmp/block
        sg_write_same --16 --lba=$at --num=64 --in=/tmp/block --xferlen=512 $2
        for n in $(seq 64); do cat /tmp/block; done > /tmp/same
        dd if=$1 bs=512 skip=$at count=64 iflag=direct status=none | cmp - /tmp/same

        # what cannot be unmapped stays, what can reads as zeros
        sg_get_lba_status --lba=$((at - 32)) $2 | grep -q "LBA: 0x"
        sg_unmap --lba=$at --num=32 --force $2
        sg_get_lba_status --lba=$at $2 | grep -qi deallocated
        head -c 16384 /dev/zero > /tmp/zeros
        dd if=$1 bs=512 skip=$at count=32 iflag=direct status=none | cmp - /tmp/zeros

        # EXTENDED COPY across the boundary
        dd if=/tmp/data of=$1 bs=512 seek=2048 oflag=direct status=none
        sg_xcopy if=$2 of=$2 bs=512 skip=2048 seek=$at count=64
        dd if=$1 bs=512 skip=$at count=64 iflag=direct status=none | cmp - /tmp/data
        """,
    )


def test_reservation_of_one_host_keeps_another_out(site: Site) -> None:
    with LinuxHost(initiator="iqn.2004-01.lab:other") as other:
        other.run(LOG_IN.format(iqn=site.first.iqn, portal=site.first.portal))
        there = TOOLS.format(lun=1)
        site.run(
            1,
            """
            sg_persist --out --register --param-sark=0xa1 $2
            sg_persist --out --reserve --param-rk=0xa1 --prout-type=5 $2
            sg_persist --in --read-reservation $2 | grep -q "Write Exclusive, registrants only"
            dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct status=none
            """,
        )
        other.run(
            there
            + """
            dd if=$1 of=/dev/null bs=4k count=1 iflag=direct status=none
            if dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct status=none; then false; fi
            sg_persist --out --register --param-sark=0xb2 $2
            dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct status=none
            sg_persist --out --preempt --param-rk=0xb2 --param-sark=0xa1 --prout-type=5 $2
            sg_persist --in --read-keys $2 | grep -q 0xb2
            """
        )
        site.run(
            1, "if dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct status=none; then false; fi"
        )
        other.run(there + "sg_persist --out --clear --param-rk=0xb2 $2")
        site.run(1, "dd if=/dev/zero of=$1 bs=4k count=1 oflag=direct status=none")


def test_machine_runs_from_an_lu(tmp_path: Path) -> None:
    system = system_disk()
    size = -(-system.stat().st_size // MIB) * MIB
    half = size // 2 // MIB * MIB
    parts = [image(tmp_path / "a", half), image(tmp_path / "b", size - half)]
    with (
        Daiko(tmp_path, parts[0], mode="local", name="second") as second,
        Daiko(tmp_path, second.url(), parts[1], name="first") as first,
    ):
        run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", system, first.url())
        with LinuxHost(disk=first.url()) as machine:
            machine.run(
                "head -c 8M /dev/urandom > /root/kept; sha256sum /root/kept > /root/sum; sync"
            )
        # Its plug was pulled; what it had on stable storage is there at the next boot.
        with LinuxHost(disk=first.url()) as machine:
            machine.run("sha256sum --quiet -c /root/sum")
