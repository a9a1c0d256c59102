"""A controller is told to stop while a host keeps it busy, and is killed while jobs wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from kernel_counters import sockets
from processes import PATIENCE, Daiko, Process, Tgt, image, qemu_io

MIB = 1 << 20


class Busy(Process):
    """A host that writes without an end, 16 commands at a time."""

    def __init__(self, folder: Path, daiko: Daiko) -> None:
        super().__init__(folder, "host")
        self.daiko = daiko

    def command(self) -> list[str]:
        load = ["-w", "-c", "1000000000", "-d", "16", "-s", "65536", "-S", "65536"]
        return ["qemu-img", "bench", "-f", "raw", "-t", "none", *load, self.daiko.url()]

    def wait_ready(self) -> None:
        """Until the writes are under way."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for (local, _), traffic in sockets(self.daiko.pid).items():
                if local == self.daiko.port and traffic.received > MIB:
                    return
            time.sleep(0.02)
        raise self.failed("writes nothing")

    def stop(self) -> int:
        self.kill()
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stop_while_a_host_writes_is_clean(tmp_path: Path, number: signal.Signals) -> None:
    """Through to a second controller, so that commands are in flight on both sides."""
    behind = image(tmp_path / "behind.img", 16 * MIB)
    with Tgt(tmp_path, behind) as tgt:
        daiko = Daiko(tmp_path, tgt.url(), store=tmp_path / "store")
        with daiko, Busy(tmp_path, daiko):
            assert daiko.popen is not None
            daiko.popen.send_signal(number)
            assert daiko.popen.wait(PATIENCE) == 0
            said = daiko.log_end()
            assert "Traceback" not in said
            assert "[error" not in said
        with daiko:
            qemu_io(daiko.url(), "write -P 4 0 64k", "read -P 4 0 64k")


def test_killed_while_jobs_wait_carries_all_of_them_out_after_its_restart(tmp_path: Path) -> None:
    content = image(tmp_path / "content.img", 8 * MIB, seed=6)
    backup = image(tmp_path / "vault.img", 8 * MIB)
    old, vault = Tgt(tmp_path, content, name="old"), Tgt(tmp_path, backup, name="vault")
    with old, vault:
        first = Daiko(
            tmp_path, old.url(), lun={1: [vault.url()]}, name="first", store=tmp_path / "store"
        )
        with first:
            os.kill(vault.pid, signal.SIGSTOP)
            try:
                asked = {"volume": "lun0", "to": "lun1", "blocks": MIB // 512}
                for part in range(8):
                    body = {**asked, "first": part * MIB // 512, "at": (7 - part) * MIB // 512}
                    first.rest("POST", "/v1/backups", json=body).raise_for_status()
                states = [job["state"] for job in jobs(first)]
                assert states.count("queued") == 4
                assert states.count("running") == 4
                first.kill()
            finally:
                os.kill(vault.pid, signal.SIGCONT)
            first.start()
            for job in jobs(first):
                first.cli("job", "wait", str(job["id"]))
            assert {job["state"] for job in jobs(first)} == {"done"}
    parts = [content.read_bytes()[part * MIB : (part + 1) * MIB] for part in range(8)]
    assert backup.read_bytes() == b"".join(reversed(parts))


def jobs(first: Daiko) -> list[dict[str, object]]:
    found: list[dict[str, object]] = first.rest("GET", "/v1/jobs").raise_for_status().json()
    return found
