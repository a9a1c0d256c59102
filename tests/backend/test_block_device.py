"""A block device as a real LU: the suite on a loop device of the kernel.

Making a loop device takes root. Where that is not to be had, the same file is run by root of a
Linux guest (tests/lab), with nothing but Daiko's code and pytest in it.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daiko.backend.file import FileDevice
from daiko.device import awaitable
from daiko.device.error import WriteProtected
from device.suite import BlockDeviceSuite, pattern
from loop_device import MAY_MAKE_LOOP_DEVICES, loop_device

SIZE = 8 << 20


@pytest.fixture
def behind(tmp_path: Path) -> Path:
    """The file behind the loop device."""
    path = tmp_path / "behind.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


if MAY_MAKE_LOOP_DEVICES:

    @pytest.mark.parametrize("block_size", [512, 4096])
    class TestBlockDevice(BlockDeviceSuite):
        @pytest.fixture
        def device(self, behind: Path, block_size: int) -> Iterator[FileDevice]:
            with loop_device(behind) as path:
                device = FileDevice.open(path, block_size)
                assert device.blocks == SIZE // block_size
                yield device
                device.close()

    def test_what_is_written_and_flushed_lies_in_the_block_device(behind: Path) -> None:
        async def write(path: str) -> None:
            device = FileDevice.open(path)
            await awaitable.write(device, 100, pattern(8, 512, 1))
            await awaitable.flush(device)
            device.close()

        with loop_device(behind) as path:
            asyncio.run(write(path))
        assert behind.read_bytes()[100 * 512 : 108 * 512] == pattern(8, 512, 1)

    def test_unmapped_blocks_are_discarded_on_the_block_device(behind: Path) -> None:
        async def unmap(path: str) -> None:
            device = FileDevice.open(path)
            assert device.capabilities.unmapped_reads_zero
            await awaitable.unmap(device, 0, SIZE // 1024)
            assert not any(await awaitable.read(device, 0, 1024))
            device.close()

        behind.write_bytes(pattern(SIZE // 512, 512, 2))
        before = behind.stat().st_blocks
        with loop_device(behind) as path:
            asyncio.run(unmap(path))
        assert behind.stat().st_blocks < before

    async def test_write_protected_block_device_takes_no_change(behind: Path) -> None:
        with loop_device(behind, "--read-only") as path:
            device = FileDevice.open(path, read_only=True)
            assert device.capabilities.read_only
            with pytest.raises(WriteProtected):
                await awaitable.write(device, 0, bytes(512))
            device.close()

else:
    # Root of the guest runs this very file, and takes the other branch.
    from importlib import metadata

    import daiko
    from lab_peers import LinuxHost

    TESTS = Path(__file__).parents[1]
    PACKAGES = (
        *("pytest", "pytest-asyncio", "iniconfig", "packaging", "pluggy", "pygments"),
        "typing-extensions",
    )

    @pytest.mark.lab
    def test_suite_passes_for_root_of_a_guest(tmp_path: Path) -> None:
        for name in PACKAGES:
            for file in metadata.files(name) or ():
                if ".." not in file.parts:
                    copy = tmp_path / file
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file.locate(), copy)
        shutil.copytree(Path(daiko.__file__).parent, tmp_path / "daiko")
        shutil.copytree(TESTS / "device", tmp_path / "device")
        for file in (Path(__file__), TESTS / "loop_device.py"):
            shutil.copy(file, tmp_path)
        with LinuxHost(share=tmp_path) as guest:
            said = guest.run(
                "modprobe loop; cd /share; export PYTHONPATH=/share PYTHONDONTWRITEBYTECODE=1\n"
                "python3 -m pytest -q -p pytest_asyncio -p no:cacheprovider -o asyncio_mode=auto "
                f"--rootdir=/share --import-mode=importlib {Path(__file__).name} 2>&1"
            )
        assert " passed" in said
        assert "failed" not in said
        assert "skipped" not in said
