"""Two initiators of a Linux kernel fence each other with `sg_persist`, as cluster software does,
and the controller crashes in between.

One guest has both: open-iscsi logs in under a second name through an interface of its own, so
the kernel has the same LU as two disks.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab_peers import LinuxHost
from processes import Daiko, image

MIB = 1 << 20
ONE, TWO = "iqn.2004-01.lab:linux", "iqn.2004-01.lab:second"

pytestmark = pytest.mark.lab

LOG_IN = f"""
iscsiadm -m iface -I second --op=new > /dev/null
iscsiadm -m iface -I second --op=update -n iface.initiatorname -v {TWO} > /dev/null
iscsiadm -m discovery -t st -p {{portal}} -I default -I second > /dev/null
iscsiadm -m node -p {{portal}} -l > /dev/null
for turn in $(seq 200); do [ "$(lsscsi | grep -c DAIKO)" -ge 2 ] && break; sleep 0.05; done
for each in /sys/class/iscsi_session/session*; do
    name=$(cat $each/initiatorname)
    disk=/dev/$(ls -d $each/device/target*/*/block/* | xargs basename)
    [ $name = {ONE} ] && echo A=$disk || echo B=$disk
done > /tmp/disks
cat /tmp/disks
"""
DEFINED = """
. /tmp/disks
put() { disk=$1; shift; sg_persist --no-inquiry --out "$@" $disk; }
get() { disk=$1; shift; sg_persist --no-inquiry --in "$@" $disk; }
may_write() { dd if=/dev/urandom of=$1 bs=4096 count=1 seek=5 oflag=direct status=none; }
may_not_write() { ! may_write $1 2>/tmp/why; }
"""


class Cluster:
    def __init__(self, guest: LinuxHost) -> None:
        self.guest = guest

    def run(self, script: str) -> str:
        return self.guest.run(DEFINED + script)


def test_members_fence_each_other_through_a_crash_of_the_controller(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk", 64 * MIB)
    with (
        Daiko(tmp_path, disk, name="only", mode="local", store=tmp_path / "store") as daiko,
        LinuxHost(initiator=ONE) as guest,
    ):
        cluster = Cluster(guest)
        disks = guest.run(LOG_IN.format(portal=daiko.portal))
        assert re.search(r"^A=/dev/sd", disks, re.MULTILINE), disks
        assert re.search(r"^B=/dev/sd", disks, re.MULTILINE), disks
        _register_and_reserve(cluster)
        daiko.kill()
        daiko.start()
        _still_reserved(cluster)
        _preempt(cluster)
        _move(cluster)
        _reserve_and_release(cluster)


def _register_and_reserve(cluster: Cluster) -> None:
    said = cluster.run(
        """
        get $A --report-capabilities
        put $A --register --param-sark=0xa1 --param-aptpl
        put $B --register --param-sark=0xb2 --param-aptpl
        put $A --reserve --param-rk=0xa1 --prout-type=1
        get $B --read-keys
        get $B --read-reservation
        get $B --read-full-status
        may_write $A
        may_not_write $B
        dd if=$B of=/dev/null bs=4096 count=1 iflag=direct status=none
        """
    )
    assert "Persist Through Power Loss Capable(PTPL_C): 1" in said
    assert re.search(r"0xa1\s+0xb2", said)
    assert "Write Exclusive" in said
    assert re.search(rf"{ONE},i,0x00023d[0-9a-f]{{6}}", said)
    assert re.search(rf"{TWO},i,0x00023d[0-9a-f]{{6}}", said)


def _still_reserved(cluster: Cluster) -> None:
    said = cluster.run(
        """
        may_not_write $B
        may_write $A
        get $A --read-full-status
        """
    )
    assert "<< Reservation holder >>" in said
    assert "0xb2" in said


def _preempt(cluster: Cluster) -> None:
    """The other member takes over, and all registrants may write after that."""
    said = cluster.run(
        """
        put $B --preempt-abort --param-rk=0xb2 --param-sark=0xa1 --prout-type=7
        may_not_write $A
        put $A --register-ignore --param-sark=0xa1 --param-aptpl
        may_write $A
        may_write $B
        get $A --read-reservation
        """
    )
    assert "Write Exclusive, all registrants" in said


def _move(cluster: Cluster) -> None:
    """A reservation is given to the other member; then everything is cleared."""
    said = cluster.run(
        f"""
        put $B --release --param-rk=0xb2 --prout-type=7
        ! get $A --read-keys 2>/tmp/why
        grep -q "Reservations released" /tmp/why
        put $B --reserve --param-rk=0xb2 --prout-type=3
        isid=$(get $A --read-full-status | grep -o "{ONE},i,0x[0-9a-f]*" | head -1)
        put $B --register-move --param-rk=0xb2 --param-sark=0xa3 --param-unreg \\
            --transport-id="$isid" --relative-target-port=1
        get $A --read-reservation
        get $A --read-keys
        may_write $A
        may_not_write $B
        put $A --clear --param-rk=0xa3
        may_write $B
        get $B --read-keys
        """
    )
    assert "Exclusive Access" in said
    assert "Key=0xa3" in said
    assert re.search(r"1 registered reservation key follows:\s+0xa3", said)
    assert "there are NO registered reservation keys" in said


def _reserve_and_release(cluster: Cluster) -> None:
    """RESERVE(6) of one, and its end with a reset."""
    cluster.run(
        """
        sg_raw $A 16 00 00 00 00 00
        may_not_write $B
        may_write $A
        sg_raw $A 17 00 00 00 00 00
        may_write $B
        sg_raw $A 16 00 00 00 00 00
        sg_reset --device $B
        may_write $B
        """
    )
