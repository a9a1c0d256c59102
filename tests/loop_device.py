"""Loop devices of the kernel: a file as a block device. Making one takes root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAY_MAKE_LOOP_DEVICES = os.access("/dev/loop-control", os.R_OK | os.W_OK)


@contextmanager
def loop_device(path: Path, *options: str) -> Iterator[str]:
    """A block device over a file; its path."""
    losetup = shutil.which("losetup", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert losetup is not None
    command = [losetup, "--find", "--show", *options, str(path)]
    device = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run([losetup, "--detach", device], check=True)
