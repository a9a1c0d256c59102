"""What sessions cost that do nothing: memory of each, and the speed of the one that works.

Hosts log in, read and write a little, as a host does when it looks at its disks, and then say no
more. Memory is the controller's own (not shared with another process), as the kernel counts it.
The speed is that of a controller with such sessions against one without, in alternation.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from daiko.iscsi.bhs import LENGTHS
from daiko.iscsi.pdu import LoginRequest, ScsiCommand
from daiko.iscsi.text_key import format_text
from daiko.scsi.sbc import Read16, Write16
from processes import Daiko
from target_loads import target_bench

SESSIONS = 1023
"""With the one that works, as many as a controller takes."""
ALLOWED = 64
"""KiB for each."""
LARGE = 64 * 1024
"""Bytes of each host's write and of its read: received in place, and passed on at once."""


class Host:
    """One session of a host with a name of its own."""

    def __init__(self, portal: tuple[str, int], target: str, number: int) -> None:
        self._socket = socket.create_connection(portal)
        keys = {
            "InitiatorName": f"iqn.2026-11.com.example:idle-{number}",
            "TargetName": target,
            "MaxRecvDataSegmentLength": "262144",
            "InitialR2T": "No",
            "ImmediateData": "Yes",
        }
        isid = (0x800000000000 | number).to_bytes(6, "big")
        request = LoginRequest(
            True, False, 1, 3, isid, cmd_sn=1, data=format_text(keys.items())
        )  # fmt: skip
        padding = bytes(-len(request.data) & 3)
        self._socket.sendall(request.pack() + request.data + padding)
        self._cmd_sn = 1
        header, _ = self._receive()
        if header[36]:
            raise SystemExit(f"bench: login {number} was refused, status class {header[36]}")

    def use(self) -> None:
        """The commands of a host that looks at its disk: the first hears of the power-on."""
        self._command(bytes(16), 0, b"")
        read = Read16.pack(lba=0, transfer_length=LARGE // 512)
        write = Write16.pack(lba=0, transfer_length=LARGE // 512)
        for _ in range(2):
            self._command(read, LARGE, b"")
            self._command(write, 0, bytes(LARGE))

    def _command(self, cdb: bytes, read: int, data: bytes) -> None:
        length = read or len(data)
        pdu = ScsiCommand(
            False, True, bool(read), bool(data), 1, 0, self._cmd_sn, length, self._cmd_sn, 1,
            cdb, data,
        )  # fmt: skip
        self._cmd_sn += 1
        self._socket.sendall(pdu.pack() + data)
        while True:
            header, _ = self._receive()
            if header[0] == 0x21 or header[1] & 1:
                return

    def _receive(self) -> tuple[bytes, bytes]:
        header = self._exactly(48)
        length = LENGTHS.unpack_from(header, 4)[0] & 0xFFFFFF
        return header, self._exactly(length + (-length & 3))

    def _exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            part = self._socket.recv(count - len(received))
            if not part:
                raise SystemExit("bench: the controller closed a session")
            received += part
        return received

    def close(self) -> None:
        self._socket.close()


def private_kib(pid: int) -> int:
    """Memory that belongs to a process alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


@contextlib.contextmanager
def idle_sessions(controller: Daiko, count: int) -> Iterator[float]:
    """So many sessions; gives the KiB that each of them takes."""
    hosts: list[Host] = []

    def add(number: int) -> None:
        host = Host(("127.0.0.1", controller.port), controller.iqn, number)
        hosts.append(host)
        host.use()

    try:
        # What is made once, for the first hosts, is nobody's.
        for number in range(16):
            add(number)
        before = private_kib(controller.pid)
        for number in range(16, count):
            add(number)
        yield (private_kib(controller.pid) - before) / (count - 16)
    finally:
        for host in hosts:
            host.close()


def run(rounds: int) -> list[dict]:
    with tempfile.TemporaryDirectory(prefix="daiko-bench-", dir="/dev/shm") as name:
        folder = Path(name)
        for part in ("busy", "quiet"):
            (folder / part).write_bytes(b"\xa5" * (64 << 20))
        with (
            Daiko(folder, folder / "busy", name="busy", mode="local") as busy,
            Daiko(folder, folder / "quiet", name="quiet", mode="local") as quiet,
            idle_sessions(busy, SESSIONS) as kib,
        ):
            speed = target_bench(busy.url(0), quiet.url(0), ["rr4k-q32"], rounds, "free", None)
    times = ALLOWED / kib
    memory = {
        "name": f"memory of an idle session: {kib:.1f} KiB", "against": f"{ALLOWED} KiB",
        "ratio": round(times, 2), "min": round(times, 2), "max": round(times, 2),
        "must": 1.0, "aim": 2.0, "flags": "",
    }  # fmt: skip
    measured = speed["rr4k-q32"]
    with_them = {
        "name": "file LU beside 1,023 idle sessions, 4 KiB QD32", "against": "without them",
        "ratio": round(measured["ratio"], 3), "min": round(min(measured["ratios"]), 3),
        "max": round(max(measured["ratios"]), 3), "must": 0.95, "aim": 1.0,
        "flags": measured["flags"],
    }  # fmt: skip
    return [memory, with_them]
