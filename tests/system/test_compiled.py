"""The `daiko` command with its data path compiled, and from the sources alone: the same product."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from compile import MODULES, SOURCES
from processes import Daiko, image, qemu_io

MIB = 1 << 20
LIBRARY = "__mypyc"
"""In the name of the library that holds what is compiled."""
LIST_COMPILED = """
import sys
import daiko.daemon
for name, module in sys.modules.items():
    if name.startswith("daiko.") and module.__file__.endswith(".so"):
        print(name.removeprefix("daiko."))
"""


class DaikoFrom(Daiko):
    """Run from these sources."""

    sources_folder = SOURCES

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONPATH": str(self.sources_folder)}

    @property
    def is_compiled(self) -> bool:
        return LIBRARY in Path(f"/proc/{self.pid}/maps").read_text()


def test_command_runs_every_module_of_the_data_path_compiled(tmp_path: Path) -> None:
    with DaikoFrom(tmp_path, image(tmp_path / "disk.img", MIB)) as daiko:
        assert daiko.is_compiled
    listed = subprocess.run(
        [sys.executable, "-c", LIST_COMPILED],
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(listed.stdout.split()) == set(MODULES)


def test_gateway_and_back_end_work_from_the_sources_alone(tmp_path: Path) -> None:
    sources = tmp_path / "src"
    shutil.copytree(SOURCES, sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    real = image(tmp_path / "real.img", 16 * MIB, seed=1)
    below = DaikoFrom(tmp_path, real, name="below", mode="local")
    below.sources_folder = sources
    with below:
        gateway = DaikoFrom(tmp_path, below.url(0), name="gateway")
        gateway.sources_folder = sources
        with gateway:
            assert not gateway.is_compiled
            qemu_io(gateway.url(0), "write -P 7 4k 8M", "flush", "read -P 7 4k 8M")
            qemu_io(gateway.url(0), "write -z -u 1M 64k", "read -P 0 1M 64k", "read -P 7 4k 4k")
    data = real.read_bytes()
    assert data[4096:MIB] == b"\7" * (MIB - 4096)
    assert data[MIB : MIB + 65536] == bytes(65536)
