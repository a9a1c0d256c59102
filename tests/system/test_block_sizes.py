"""Blocks of 4096 bytes through the whole product: virtual LU, backup, restore, and a copy to blocks
of another size."""

from __future__ import annotations

import json
from pathlib import Path

from processes import Daiko, Tgt, image, qemu_io, run

MIB = 1 << 20
HALF = 8 * MIB


def test_volume_with_blocks_of_4096_bytes_is_backed_up_and_brought_back(tmp_path: Path) -> None:
    content = image(tmp_path / "content.img", 2 * HALF, seed=3)
    sd1_image = image(tmp_path / "sd1.img", HALF)
    sd1 = Daiko(tmp_path, sd1_image, name="sd1", options=["--block-size", "4096"])
    old = Tgt(tmp_path, image(tmp_path / "old.img", HALF), name="old", block_size=4096)
    vault_image = image(tmp_path / "vault.img", 2 * HALF + MIB)
    vault = Tgt(tmp_path, vault_image, name="vault", block_size=4096)
    small = image(tmp_path / "small.img", 2 * HALF)
    parts: list[Path | str] = [sd1.url(0), old.url(1)]
    first = Daiko(tmp_path, *parts, lun={1: [vault.url(1)], 2: [small]}, name="first")
    with sd1, old, vault:
        sd1.cli("host", "allow-copy", "any", vault.portal)
        with first:
            backed_up_and_brought_back(first, content, vault_image)
            done = first.cli("copy", "run", "lun0", "lun2", "--json")
        steps = json.loads(done.stdout)["steps"]
        assert {step["executor"] for step in steps} == {"this controller"}
        assert {step["destination_block_size"] for step in steps} == {512}
    assert small.read_bytes() == content.read_bytes()


def backed_up_and_brought_back(first: Daiko, content: Path, vault: Path) -> None:
    said = run("iscsi-readcapacity16", first.url()).stdout.upper()
    assert "LENGTH IN BYTES:4096" in said, said
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", content, first.url())
    done = first.cli("backup", "run", "lun0", "--to", "lun1", "--at", "256", "--json")
    job = json.loads(done.stdout)
    assert [(step["delegated"], step["blocks"], step["block_size"]) for step in job["steps"]] == [
        (True, HALF // 4096, 4096),
        (False, HALF // 4096, 4096),
    ]
    assert vault.read_bytes()[MIB:] == content.read_bytes()
    qemu_io(first.url(), f"write -P 9 {HALF - 4096} 8k")
    first.cli("backup", "restore", str(job["id"]), "--yes")
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", content, first.url())
