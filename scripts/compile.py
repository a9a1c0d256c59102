"""Compile the data path with mypyc: the same source, the same behaviour, fewer cycles a command.

    python scripts/compile.py            extension modules beside the sources, where they are due
    python scripts/compile.py --remove   run from the sources again

`MODULES` are what a READ or WRITE passes through (docs/architecture.md), and what these call for
each command. An extension module beside a source file takes its place when it is imported; without
them everything runs from the sources. A stamp of the sources says when they are due again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "src"
STAMP = SOURCES / "daiko" / ".compiled"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

MODULES = (
    "device.block",
    "device.memory",
    "device.range_lock",
    "device.layer.layer",
    "device.layer.overlay",
    "iscsi.bhs",
    "iscsi.digest",
    "iscsi.framing",
    "iscsi.session",
    "mapping.mapping_table",
    "mapping.region_bitmap",
    "port.connection",
    "initiator.command",
    "initiator.session",
    "initiator.multipath",
    "backend.remote_lu",
    "backend.second_controller",
    "backend.open_file",
    "backend.file",
    "backend.file_calls",
    "virtual_lu.virtual_lu",
    "pair.activity_log",
    "pair.differential_bitmap",
    "pair.operation",
    "pair.unproved",
    "pair.write_path",
    "target.full_feature",
    "target.session",
    "target.port_task",
    "target.task",
    "target.task_set",
    "target.nexus",
    "target.access",
    "target.logical_unit",
    "target.bar",
    "target.repertoire",
    "target.commands.sbc",
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the data path with mypyc.")
    parser.add_argument("--remove", action="store_true", help="run from the sources again")
    options = parser.parse_args()
    if options.remove:
        remove()
        return 0
    wanted = stamp()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    remove()
    print("set-up: compiling the data path (a minute)", flush=True)
    with tempfile.TemporaryDirectory(prefix="daiko-compile-") as name:
        failure = build(Path(name))
        if failure:
            print(failure, file=sys.stderr)
            return 1
    STAMP.write_text(wanted)
    return 0


def stamp() -> str:
    """What the extension modules depend on."""
    found = hashlib.sha256(f"{SUFFIX} {version('mypy')}".encode())
    for path in (Path(__file__), *sorted(SOURCES.rglob("*.py"))):
        found.update(path.read_bytes())
    return found.hexdigest()


def remove() -> None:
    STAMP.unlink(missing_ok=True)
    for path in SOURCES.rglob("*.so"):
        path.unlink()


def build(folder: Path) -> str:
    """Build in `folder`, and put what comes of it beside the sources; "" or what went wrong."""
    shutil.copytree(SOURCES, folder / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    paths = [f"src/daiko/{name.replace('.', '/')}.py" for name in MODULES]
    (folder / "setup.py").write_text(
        "from mypyc.build import mypycify\n"
        "from setuptools import setup\n"
        "setup(name='daiko', packages=[], package_dir={'': 'src'},\n"
        f"      ext_modules=mypycify(['--config-file=mypy.ini', *{paths!r}], opt_level='3',\n"
        "                           debug_level='0'))\n"
    )
    (folder / "mypy.ini").write_text("[mypy]\nstrict = True\nmypy_path = src\n")
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace", f"-j{os.cpu_count() or 1}"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if built.returncode:
        return built.stdout
    for path in (folder / "src").rglob("*.so"):
        shutil.copy2(path, SOURCES / path.relative_to(folder / "src"))
    return ""


if __name__ == "__main__":
    sys.exit(main())
