"""The sg3-utils and sdparm of a Linux host read what a unit says of itself, and understand it.

One guest, one login; each test asserts on what the tool decoded, and that it complained of nothing.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from lab_peers import LinuxHost
from processes import Daiko, image

MIB = 1 << 20
URL = "https://daiko.example.com:3261"

pytestmark = pytest.mark.lab

LOGIN = """
iscsiadm -m discovery -t st -p {portal} > /dev/null
iscsiadm -m node -p {portal} -l > /dev/null
for turn in $(seq 400); do [ "$(lsscsi -g | grep -c DAIKO)" -ge 1 ] && break; sleep 0.05; done
lsscsi -g | grep DAIKO | grep -o "/dev/sg[0-9]*" | head -n 1
"""
COMPLAINTS = re.compile(
    r"malformed|truncated|too short|bad field|unexpected|illegal request|not supported:",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def daiko(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daiko]:
    folder = tmp_path_factory.mktemp("tools")
    with Daiko(
        folder, image(folder / "a", 64 * MIB), name="tools", mode="local", store=folder / "store"
    ) as running:
        running.cli("management", "set", URL)
        yield running


@pytest.fixture(scope="module")
def host(daiko: Daiko) -> Iterator[LinuxHost]:
    with LinuxHost() as guest:
        yield guest


@pytest.fixture(scope="module")
def disk(host: LinuxHost, daiko: Daiko) -> str:
    return host.run(LOGIN.format(portal=daiko.portal)).strip()


def printed(host: LinuxHost, command: str) -> str:
    """What a tool prints, on both of its outputs; it must succeed and complain of nothing."""
    text = host.run(f"{command} 2>&1")
    assert not COMPLAINTS.search(text), f"{command}:\n{text}"
    return text


def test_inquiry_names_the_standards(host: LinuxHost, disk: str) -> None:
    text = printed(host, f"sg_inq -d {disk}")
    assert "Vendor identification: DAIKO" in text
    for word in ("[SPC-4]", "CmdQue=1", "3PC=1", "HiSUP=1", "TPGS=3", "Protect=0", "ACC=0"):
        assert word in text
    described = text[text.index("Version descriptors:") :]
    for standard in ("SAM-5", "SPC-4", "SBC-3", "SBC-4", "iSCSI"):
        assert standard in described


@pytest.mark.parametrize(
    ("page", "facts"),
    [
        (
            "sv",
            [
                f"[{page}]"
                for page in ["sv", "sn", "di", "mna", "ei", "mpp", "sp", "tpc", "bl", "bdc", "lbpv"]
            ],
        ),
        ("di", ["naa", "SCSI name string", "Relative target port", "Target port group", "T10"]),
        ("mna", [URL, "Storage configuration"]),
        ("ei", ["HEADSUP=1", "ORDSUP=1", "SIMPSUP=1", "V_SUP=1", "NV_SUP=0", "LUICLR=1"]),
        ("mpp", ["0x8", "0xa,  subpage code: 0x1", "0x1c", "MLUS=0,  Policy: shared"]),
        ("sp", ["Relative port=1", "iqn.2026-11.com.example:tools,t,0x0001"]),
    ],
)
def test_vpd_page_is_decoded(host: LinuxHost, disk: str, page: str, facts: list[str]) -> None:
    text = printed(host, f"sg_vpd --page={page} {disk}").lower()
    for fact in facts:
        assert fact.lower() in text, text


def test_every_vpd_page_is_decoded(host: LinuxHost, disk: str) -> None:
    text = printed(host, f"sg_vpd -a {disk}")
    assert "Only hex output supported" not in text


def test_mode_pages_are_decoded_with_all_their_values(host: LinuxHost, disk: str) -> None:
    text = printed(host, f"sg_modes -a {disk}")
    for page in ("Caching", "Control", "Informational exceptions control"):
        assert page in text
    everything = printed(host, f"sg_modes -a -a -c 3 {disk}")
    assert "Control extension, page_control: saved" in everything
    assert "Logical block provisioning" in printed(host, f"sdparm -a -l {disk}")
    assert wce(host, disk) == "1 [cha: y, def: 1, sav: 1]"
    assert re.search(r"D_SENSE +0 +\[cha: y", printed(host, f"sdparm -l --get=D_SENSE {disk}"))
    assert re.search(r"MSDL +0 +\[cha: y", printed(host, f"sdparm -l --get=MSDL {disk}"))


def test_mode_page_is_changed_saved_and_changed_back_by_sdparm(host: LinuxHost, disk: str) -> None:
    printed(host, f"sdparm --set=WCE=0 --save {disk}")
    assert wce(host, disk) == "0 [cha: y, def: 1, sav: 0]"
    printed(host, f"sdparm --set=WCE=1 --save {disk}")
    assert wce(host, disk) == "1 [cha: y, def: 1, sav: 1]"


def wce(host: LinuxHost, disk: str) -> str:
    """WCE as sdparm shows it, without its columns."""
    found = re.search(r"WCE +(\d.*\])", printed(host, f"sdparm -l --get=WCE {disk}"))
    assert found
    return " ".join(found[1].split())


def test_log_pages_are_decoded_and_reset(host: LinuxHost, disk: str) -> None:
    text = printed(host, f"sg_logs -a {disk}")
    for page in (
        "Non-medium error",
        "Logical block provisioning",
        "Self-test results",
        "Informational Exceptions",
    ):
        assert page in text
    printed(host, f"sg_logs --reset --select {disk}")


def test_self_tests_run_and_leave_their_result(host: LinuxHost, disk: str) -> None:
    printed(host, f"sg_senddiag --test {disk}")
    printed(host, f"sg_senddiag --selftest=5 {disk}")
    printed(host, f"sg_senddiag --selftest=1 {disk}")
    assert "Supported diagnostic pages" in printed(host, f"sg_senddiag --list {disk}")
    text = printed(host, f"sg_logs --page=0x10 {disk}")
    assert text.count("completed without error") == 2


def test_buffers_hold_what_was_written(host: LinuxHost, disk: str) -> None:
    host.run(
        f"""
        head -c 512 /dev/urandom > /tmp/data
        sg_write_buffer --mode=data --in=/tmp/data --length=512 {disk}
        sg_raw -r 512 -o /tmp/back {disk} 3c 02 00 00 00 00 00 02 00 00
        cmp /tmp/data /tmp/back
        sg_raw -r 512 -o /tmp/long {disk} 9b 02 00 00 00 00 00 00 00 00 00 00 02 00 00 00
        cmp /tmp/data /tmp/long
        head -c 512 /dev/urandom > /tmp/other
        sg_raw -s 512 -i /tmp/other {disk} 3b 0a 00 00 00 00 00 02 00 00
        sg_raw -r 512 -o /tmp/back {disk} 3c 0a 00 00 00 00 00 02 00 00
        cmp /tmp/other /tmp/back
        """
    )
    text = printed(host, f"sg_rbuf --size=1m {disk}")
    assert "buffer capacity=65536" in text
    assert "actual: 1048576 bytes" in text
    refused = host.run(f"sg_write_buffer --mode=dmc_save --in=/tmp/data {disk} 2>&1 || true")
    assert "Illegal request" in refused


def test_operation_codes_come_with_their_timeouts(host: LinuxHost, disk: str) -> None:
    text = printed(host, f"sg_opcodes -a --rctd {disk}")
    assert "Read(16)" in text
    assert re.search(r"^ 88 +16 +5 +60 +Read\(16\)$", text, re.MULTILINE)
    assert re.search(r"^ 48 +1 +10 +3600 +604800 +Sanitize, overwrite$", text, re.MULTILINE)
    one = printed(host, f"sg_opcodes --opcode=0x8a --rctd {disk}")
    assert "nominal timeout: 5 secs, recommended timeout: 60 secs" in one
    functions = printed(host, f"sg_opcodes --tmf --repd {disk}")
    for name in ("Abort task", "Logical unit reset", "Query task set"):
        assert name in functions


def test_timestamp_and_identifying_information(host: LinuxHost, disk: str) -> None:
    before = time.time_ns() // 1_000_000
    assert before <= int(printed(host, f"sg_timestamp {disk}")) <= time.time_ns() // 1_000_000
    printed(host, f"sg_timestamp --milliseconds=1700000000000 {disk}")
    assert int(printed(host, f"sg_timestamp {disk}")) // 1_000_000 == 1_700_000
    host.run(f"printf 'rack 7' | sg_ident --set {disk}")
    assert "rack 7" in printed(host, f"sg_ident --ascii {disk}")


def test_sense_luns_and_capacity(host: LinuxHost, disk: str) -> None:
    assert "No Sense" in printed(host, f"sg_requests {disk}")
    assert "No Sense" in printed(host, f"sg_requests --desc {disk}")
    for selection, length in (("0", 8), ("1", 0), ("2", 8), ("0x10", 0), ("0x11", 8)):
        assert f"Lun list length = {length} " in printed(
            host, f"sg_luns --select={selection} {disk}"
        )
    assert "67108864" in printed(host, f"sg_readcap --long {disk}")
    printed(host, f"sg_turs {disk}")
