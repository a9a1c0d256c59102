"""A target behind two portals: when the path to one is cut, the other takes over, and a host that
works through the first controller notices nothing but a pause."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kernel_counters import traffic_with
from network_path import NetworkPath
from processes import Daiko, image, qemu_io, run

MIB = 1 << 20


async def test_second_portal_takes_over_amid_the_writes_of_a_host(tmp_path: Path) -> None:
    content = image(tmp_path / "content.img", 48 * MIB, seed=5)
    disk = image(tmp_path / "disk.img", 48 * MIB)
    with (
        Daiko(tmp_path, disk, name="second") as second,
        Daiko(tmp_path, name="first", store=tmp_path / "store") as first,
    ):
        one, other = NetworkPath(second.port, cut_after=16 * MIB), NetworkPath(second.port)

        def work() -> None:
            address = f"iscsi://{one.portal}/{second.iqn}"
            first.cli("backend", "add", "second", address, "--portal", other.portal)
            first.cli("volume", "add", "alpha", "--extent", f"second/0:0:{48 * MIB // 512}")
            first.cli("host", "add", "any", "--initiator", "*", "--lun", "0=alpha")
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", content, first.url())
            run("qemu-img", "compare", "-f", "raw", "-F", "raw", content, first.url())

        async with one, other:
            await asyncio.to_thread(work)
            assert one.passed > 16 * MIB
            assert other.passed > 32 * MIB
            # And back: the first path is there again when the second is cut.
            await one.open()
            before = one.passed
            other.cut()
            await asyncio.to_thread(qemu_io, first.url(), "write -P 6 1M 64k", "read -P 6 1M 64k")
            assert one.passed > before + 2 * 65536
            # Everything went over the paths.
            assert not traffic_with(first.pid, [second.port])[second.port].total
            # (it logs out over a path, which lives in this process)
            await asyncio.to_thread(first.stop)
    wanted = bytearray(content.read_bytes())
    wanted[MIB : MIB + 65536] = b"\6" * 65536
    assert disk.read_bytes() == wanted
