"""CHAP with the Linux kernel: its initiator logs in here, its target lets us in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab_peers import LinuxHost, Lio
from processes import Daiko, image

MIB = 1 << 20
HOST = "iqn.2004-01.lab:chap"
SECRET, TARGET_SECRET, FINDER_SECRET = "a secret of 16 B", "of array, 16 byt", "discovering 16 B"

pytestmark = pytest.mark.lab

SESSION = """
iscsiadm -m node -o update -n node.session.auth.authmethod -v CHAP
iscsiadm -m node -o update -n node.session.auth.username -v host
iscsiadm -m node -o update -n node.session.auth.password -v "{secret}"
iscsiadm -m node -o update -n node.session.initial_login_retry_max -v 1
"""
MUTUAL = """
iscsiadm -m node -o update -n node.session.auth.username_in -v array
iscsiadm -m node -o update -n node.session.auth.password_in -v "{secret}"
"""
DISCOVERY = """
iscsiadm -m discoverydb -t st -p {portal} -o new > /dev/null
set_discovery() {{ iscsiadm -m discoverydb -t st -p {portal} -o update -n "$1" -v "$2"; }}
set_discovery discovery.sendtargets.auth.authmethod CHAP
set_discovery discovery.sendtargets.auth.username finder
set_discovery discovery.sendtargets.auth.password "{secret}"
iscsiadm -m discoverydb -t st -p {portal} --discover
"""
USE = """
iscsiadm -m node -l > /dev/null
for turn in $(seq 200); do lsscsi | grep -q DAIKO && break; sleep 0.05; done
disk=$(lsscsi | grep DAIKO | grep -o "/dev/sd[a-z]*")
head -c 1M /dev/urandom > /tmp/data
dd if=/tmp/data of=$disk bs=1M oflag=direct status=none
dd if=$disk of=/tmp/back bs=1M count=1 iflag=direct status=none
cmp /tmp/data /tmp/back
iscsiadm -m node -u > /dev/null
echo used
"""


def test_linux_host_logs_in_by_chap(tmp_path: Path) -> None:
    """One boot: a discovery with CHAP, one-way, mutual, and each of them with a wrong secret."""

    def file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    disk = image(tmp_path / "disk.img", 8 * MIB)
    with Daiko(tmp_path, mode="local", store=tmp_path / "store", name="chap") as daiko:
        daiko.cli("backend", "add", "disk", str(disk))
        daiko.cli("volume", "add", "alpha", "--image", "disk/0")
        daiko.cli("host", "add", "linux", "-i", HOST, "--lun", "0=alpha")
        daiko.cli(
            "host", "set-chap", "linux", "--user", "host", "--secret-file", file("a", SECRET),
            "--mutual-user", "array", "--mutual-secret-file", file("b", TARGET_SECRET),
        )  # fmt: skip
        finder = file("c", FINDER_SECRET)
        daiko.cli("discovery", "set-chap", "--user", "finder", "--secret-file", finder)
        with LinuxHost(initiator=HOST) as linux:

            def fails(script: str) -> bool:
                return "used" not in linux.run(script, check=False)

            refused = linux.run(f"iscsiadm -m discovery -t st -p {daiko.portal}", check=False)
            assert daiko.iqn not in refused
            found = linux.run(DISCOVERY.format(portal=daiko.portal, secret=FINDER_SECRET))
            assert daiko.iqn in found
            assert fails(USE), "without CHAP"
            assert fails(SESSION.format(secret="another 16 bytes") + USE)
            assert "used" in linux.run(SESSION.format(secret=SECRET) + USE), "one-way"
            assert "used" in linux.run(MUTUAL.format(secret=TARGET_SECRET) + USE), "mutual"
            assert fails(MUTUAL.format(secret="another 16 bytes") + USE)
        log = daiko.log_with("a wrong CHAP secret")
        assert "authentication is required" in log or "no common AuthMethod" in log


LIO = """
set -e
tpg=/sys/kernel/config/target/iscsi/{iqn}/tpgt_1
acl=$tpg/acls/{initiator}
if [ ! -d $acl ]; then
    mkdir $acl
    mkdir $acl/lun_0
    ln -s $tpg/lun/lun_0 $acl/lun_0/to
fi
echo 0 > $tpg/attrib/generate_node_acls
echo 1 > $tpg/attrib/authentication
printf '%s' host > $acl/auth/userid
printf '%s' '{secret}' > $acl/auth/password
printf '%s' array > $acl/auth/userid_mutual
printf '%s' '{target}' > $acl/auth/password_mutual
"""


def test_lio_lets_us_in_by_mutual_chap_and_a_changed_secret(tmp_path: Path) -> None:
    def file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    initiator = "iqn.2026-11.com.example:first"
    with Lio(luns=1, mib=8) as lio:
        lio.run(LIO.format(iqn=lio.iqn, initiator=initiator, secret=SECRET, target=TARGET_SECRET))
        first = Daiko(tmp_path, store=tmp_path / "store", name="first")
        first.options += ["--initiator-iqn", initiator]
        with first:
            add = ["backend", "add", "lio", f"iscsi://{lio.portal}/{lio.iqn}"]
            mutual = ["--mutual-user", "array", "--mutual-secret-file"]
            right = [*mutual, file("b", TARGET_SECRET)]
            assert first.cli(*add, check=False).returncode == 5
            login = ["--chap-user", "host", "--chap-secret-file"]
            wrong = [*login, file("x", "another 16 bytes"), *right]
            assert first.cli(*add, *wrong, check=False).returncode == 5
            false = [*login, file("a", SECRET), *mutual, file("y", "another 16 bytes")]
            refused = first.cli(*add, *false, check=False)
            assert "did not prove" in refused.stderr
            first.cli(*add, *login, file("a", SECRET), *right)
            # Without a proof of the target, at an array that can give one.
            change = ["backend", "set-chap", "lio", "--user", "host", "--secret-file"]
            first.cli(*change, file("a", SECRET))
            second = "a second secret!"
            lio.run(LIO.format(iqn=lio.iqn, initiator=initiator, secret=second,
                               target=TARGET_SECRET))  # fmt: skip
            first.cli(*change, file("d", second), *right)
            first.restart()
            first.wait_until_connected(lio.iqn)
            shown = json.loads(first.cli("backend", "show", "lio", "--json").stdout)
            assert shown["connected"]
            assert shown["devices"][0]["vendor"] == "LIO-ORG"
