"""How values are written on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from daiko.cli import option
from daiko.cli.error import CliError, ExitCode


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1k", 1024),
        ("512M", 512 << 20),
        ("512MiB", 512 << 20),
        ("10g", 10 << 30),
        ("1.5GiB", 3 << 29),
        ("1TB", 10**12),
        ("2 KB", 2000),
        ("7B", 7),
    ],
)
def test_size_is_understood(text: str, size: int) -> None:
    assert option.size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1GiBs", "ten", "1e9", "0x10"])
def test_size_that_is_none_is_a_fault_of_usage(text: str) -> None:
    with pytest.raises(CliError) as caught:
        option.size(text)
    assert caught.value.code is ExitCode.USAGE


def test_range_is_understood() -> None:
    assert option.block_range("") == {}
    assert option.block_range("0:1") == {"first": 0, "blocks": 1}
    assert option.block_range("77:2048") == {"first": 77, "blocks": 2048}


@pytest.mark.parametrize("text", ["1", "1:", ":1", "1:0", "-1:2", "a:b", "1:2:3"])
def test_range_that_is_none_is_a_fault_of_usage(text: str) -> None:
    with pytest.raises(CliError) as caught:
        option.block_range(text)
    assert caught.value.code is ExitCode.USAGE


def test_path_of_a_backend_is_made_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert option.address("disk.img") == f"{tmp_path}/disk.img"
    assert option.address("/dev/sdb") == "/dev/sdb"
    assert option.address("iscsi://h/iqn.x") == "iscsi://h/iqn.x"
