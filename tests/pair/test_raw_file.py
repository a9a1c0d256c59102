"""The few calls, on real files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from daiko.pair.raw_file import OsFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs" / "p.bitmap"


def test_file_is_made_with_its_folder_and_only_once(path: Path) -> None:
    file = OsFile.open(path)
    assert (file.is_new, file.size()) == (True, 0)
    file.close()
    again = OsFile.open(path)
    assert not again.is_new
    again.close()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_what_is_written_is_read(path: Path) -> None:
    file = OsFile.open(path)
    file.allocate(10000)
    file.write(4096, b"abc")
    file.sync()
    assert file.read(4095, 5) == b"\0abc\0"
    assert file.read(9990, 100) == bytes(10)
    assert file.read(20000, 1) == b""
    file.close()
    assert path.read_bytes()[4096:4099] == b"abc"


def test_room_is_taken_when_it_is_allocated(path: Path) -> None:
    file = OsFile.open(path)
    file.allocate(1 << 20)
    assert (file.size(), path.stat().st_blocks * 512 >= 1 << 20) == (1 << 20, True)
    file.allocate(4096)
    assert file.size() == 4096
    file.close()


def test_file_that_somebody_has_open_is_busy(path: Path) -> None:
    file = OsFile.open(path)
    with pytest.raises(OSError, match=f"already open as a bitmap: '{path}'") as caught:
        OsFile.open(path)
    assert caught.value.errno == errno.EBUSY
    file.close()
    file.close()
    OsFile.open(path).close()


def test_file_goes_with_its_name(path: Path) -> None:
    file = OsFile.open(path)
    file.remove()
    file.remove()
    file.close()
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda file: file.size(),
        lambda file: file.read(0, 1),
        lambda file: file.write(0, b"x"),
        lambda file: file.allocate(1),
        lambda file: file.sync(),
    ],
    ids=["size", "read", "write", "allocate", "sync"],
)
def test_error_says_which_file(path: Path, call: object) -> None:
    file = OsFile.open(path)
    os.close(file._descriptor)
    with pytest.raises(OSError, match=r"p\.bitmap") as caught:
        call(file)  # type: ignore[operator]
    assert caught.value.errno == errno.EBADF


def test_folder_that_may_not_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("no folder")
    with pytest.raises(OSError, match="pairs"):
        OsFile.open(tmp_path / "pairs" / "p.bitmap")


def test_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    """And nothing stays open."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        OsFile.open(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before
