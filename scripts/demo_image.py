"""An ext4 image of real files of this machine, for the demonstration."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

TREES = ("/usr/lib", "/usr/share", "/usr/bin")
FILL = 0.72
"""How much of the image the files take, so that file system and slack have room."""
MOST_FILES = 6000


def real_files() -> Iterator[Path]:
    """Regular files of this machine that this user may read, in a fixed order."""
    for tree in TREES:
        for folder, folders, names in os.walk(tree):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK):
                    yield path


def make_image(folder: Path, size: int) -> tuple[Path, int]:
    """Make `folder/image.ext4` of `size` bytes; returns its path and how many files lie in it."""
    staging = folder / "files"
    room = int(size * FILL)
    count = 0
    for path in real_files():
        # Small files first would make thousands of inodes and few bytes: leave the tiny ones out.
        length = path.stat().st_size
        if not 4096 <= length <= room:
            continue
        target = staging / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        room -= length
        count += 1
        if count == MOST_FILES or room < 1 << 20:
            break
    image = folder / "image.ext4"
    with image.open("wb") as file:
        file.truncate(size)
    mke2fs = shutil.which("mke2fs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if mke2fs is None:
        raise FileNotFoundError("mke2fs (package e2fsprogs) is not installed")
    subprocess.run(
        [mke2fs, "-q", "-F", "-t", "ext4", "-d", str(staging), str(image)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(staging)
    return image, count
