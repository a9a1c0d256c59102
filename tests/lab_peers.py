"""The Linux kernel as a peer, in a guest: its iSCSI target (LIO) and its iSCSI initiator.

A boot takes some five seconds on two cores, so a test boots one guest a scenario, not a case.
`127.0.0.1:PORT` means the same on this machine and in an initiator guest (tests/lab/README.md).
"""

from __future__ import annotations

import io
import json
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from processes import ProcessFailed, free_port

LAB = Path(__file__).parent / "lab"
PATIENCE = 300.0


class LinuxHost:
    """A Linux kernel host: open-iscsi, sg3-utils, ddpt, fio, e2fsprogs, xfsprogs, multipath-tools.

    `disk`: the URL of an LU that holds a copy of `system_disk()`; the host runs from it."""

    def __init__(
        self,
        *,
        initiator: str = "iqn.2004-01.lab:linux",
        share: Path | None = None,
        disk: str | None = None,
    ):
        from lab import labvm

        self.initiator = initiator
        self.share = share
        self.disk = disk
        self._guest = labvm.Guest(f"host-{uuid.uuid4().hex[:12]}")

    def __enter__(self) -> Self:
        share = None if self.share is None else str(self.share)
        self._guest.start(
            "initiator", initiator=self.initiator, share=share, disk=self.disk, tied=True
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._guest.stop()

    def run(self, script: str, *, check: bool = True) -> str:
        """Run a bash script in the guest with `set -e`; returns what it prints. Raises
        ProcessFailed when it fails."""
        out, err = io.BytesIO(), io.BytesIO()
        status = self._guest.run("set -e\n" + script, out, err, timeout=PATIENCE)
        printed = out.getvalue().decode(errors="replace")
        if check and status:
            raise ProcessFailed(
                f"the guest's script ended with {status}:\n{script}\n-- out\n{printed}\n"
                f"-- err\n{err.getvalue().decode(errors='replace')}"
            )
        return printed


def system_disk() -> Path:
    """The image of the disk that guests run from. It is not to be written to."""
    from lab import labvm

    return Path(labvm.image()) / "disk.img"


class Lio:
    """The Linux kernel's target: a second controller that answers EXTENDED COPY."""

    def __init__(
        self,
        *,
        luns: int = 2,
        mib: int = 64,
        options: tuple[str, ...] = (),
        within: Sequence[str] = (),
    ) -> None:
        """`mib`: of each LU. `within`: the words before a command that run it in another network,
        whose 127.0.0.1 has the portal then."""
        self.within = within
        self.name = f"lio-{uuid.uuid4().hex[:8]}"
        self.luns = luns
        self.mib = mib
        self.options = options
        self.port = free_port()
        self.facts: dict[str, object] = {}

    @property
    def portal(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def iqn(self) -> str:
        return f"iqn.2003-01.org.linux-iscsi:{self.name}"

    def url(self, lun: int = 0) -> str:
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"

    def __enter__(self) -> Self:
        done = self._tool(
            *("start", "--name", self.name, "--port", str(self.port)),
            *("--luns", str(self.luns), "--size", str(self.mib), *self.options),
        )
        self.facts = json.loads(done)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tool("stop", "--name", self.name)

    def run(self, script: str) -> str:
        """Run a shell script in the guest, where configfs can be changed at will."""
        return self._tool("run", "--name", self.name, script)

    def _tool(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.within, LAB / "lio-target", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            raise ProcessFailed(f"lio-target {arguments} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout
