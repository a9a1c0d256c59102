"""A pair over two sites, each a process of its own, by the command line; and a kill of each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from processes import PATIENCE, Daiko, ProcessFailed, image, qemu_io

SIZE = 8 << 20


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[Daiko, Daiko]]:
    """tokyo serves alpha, osaka beta; each shows its volume to any host as LUN 0."""
    made = [Daiko(tmp_path, name=name, store=tmp_path / name) for name in ("tokyo", "osaka")]
    with made[0] as tokyo, made[1] as osaka:
        for seed, (here, there, volume) in enumerate(
            ((tokyo, osaka, "alpha"), (osaka, tokyo, "beta"))
        ):
            here.cli("site", "add", there.name, f"iscsi://{there.portal}/{there.iqn}",
                     "--without-chap")  # fmt: skip
            file = image(tmp_path / f"{volume}.img", SIZE, seed=seed)
            here.cli("backend", "add", f"{volume}-disk", str(file))
            here.cli("volume", "add", volume, "--image", f"{volume}-disk/0")
            here.cli("host", "add", "any", "--initiator", "*")
            here.cli("host", "map", "any", volume, "--lun", "0")
        osaka.cli("site", "offer", "tokyo", "beta")
        tokyo.cli("site", "probe", "osaka")
        yield tokyo, osaka


def shown(daiko: Daiko, name: str = "mirror") -> dict[str, Any]:
    (found,) = json.loads(daiko.cli("pair", "show", name, "--json").stdout)
    assert isinstance(found, dict)
    return found


def wait(daiko: Daiko, state: str = "paired") -> None:
    daiko.cli("pair", "wait", "mirror", "--state", state, "--timeout", "90")


def test_pair_goes_on_when_either_side_is_killed(both: tuple[Daiko, Daiko], tmp_path: Path) -> None:
    tokyo, osaka = both

    def equal() -> bool:
        files = [tmp_path / f"{volume}.img" for volume in ("alpha", "beta")]
        return files[0].read_bytes() == files[1].read_bytes()

    refused = tokyo.cli("pair", "create", "mirror", "alpha", "osaka:beta", check=False)
    assert "8 MiB of osaka:beta" in refused.stderr
    tokyo.cli("pair", "create", "mirror", "alpha", "osaka:beta", "--yes")
    wait(tokyo)
    assert equal()
    qemu_io(tokyo.url(0), "write -P 1 0 1M")
    assert equal()

    osaka.kill()
    osaka.start()
    # Within its patience: the host waits, and never hears of it.
    qemu_io(tokyo.url(0), "write -P 2 64k 1M")
    wait(tokyo)
    assert equal()

    tokyo.kill()
    tokyo.start()
    qemu_io(tokyo.url(0), "write -P 3 2M 1M")
    wait(tokyo)
    assert equal()
    assert shown(osaka)["is_followed"]

    tokyo.cli("pair", "split", "mirror")
    assert shown(osaka)["state"] == "split"
    qemu_io(osaka.url(0), "write -P 4 4M 64k")
    osaka.kill()
    osaka.start()
    assert shown(osaka)["written_to_secondary"] == 64 << 10
    tokyo.cli("site", "probe", "osaka")
    tokyo.cli("pair", "resync", "mirror", "--yes")
    wait(tokyo)
    assert equal()

    tokyo.kill()
    osaka.cli("pair", "swap", "mirror", "--yes")
    qemu_io(osaka.url(0), "write -P 5 5M 64k")
    tokyo.start()
    tokyo.cli("site", "probe", "osaka")
    wait_for_split(tokyo)
    assert not equal()
    assert any("conflict" in note for note in shown(tokyo)["notes"])
    tokyo.cli("pair", "resync", "mirror", "--reverse", "--yes")
    wait(tokyo)
    assert equal()
    qemu_io(tokyo.url(0), "read -P 5 5M 64k")
    tokyo.cli("pair", "rm", "mirror")
    assert json.loads(osaka.cli("pair", "ls", "--json").stdout) == []


def wait_for_split(daiko: Daiko) -> None:
    """`pair wait` ends with an error, which is what is waited for."""
    done = daiko.cli("pair", "wait", "mirror", "--state", "split", "--timeout", "90", check=False)
    assert "is split by error: site osaka has taken over" in done.stderr


@pytest.mark.parametrize("victim", ["who offers the lead", "who takes it"])
def test_roles_are_exchanged_though_a_side_is_killed_meanwhile(
    both: tuple[Daiko, Daiko], tmp_path: Path, victim: str
) -> None:
    """Wherever the kill falls, in the end one leads, hosts write there, and both are the same."""
    tokyo, osaka = both
    tokyo.cli("pair", "create", "mirror", "alpha", "osaka:beta", "--yes")
    wait(tokyo)
    dies, words = (tokyo, "lead offered") if victim.endswith("lead") else (osaka, "lead taken")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(tokyo.cli, "pair", "swap", "mirror", check=False)
        dies.log_with(words)
        dies.kill()
        asked.result()
    dies.start()
    tokyo.cli("site", "probe", "osaka")
    leader = who_leads(tokyo, osaka)
    wait(leader)
    qemu_io(leader.url(0), "write -P 6 3M 1M")
    other = osaka if leader is tokyo else tokyo
    with pytest.raises(ProcessFailed, match="LUN is write protected"):
        qemu_io(other.url(0), "write -P 7 0 64k")
    files = [tmp_path / f"{volume}.img" for volume in ("alpha", "beta")]
    assert files[0].read_bytes() == files[1].read_bytes()
    leader.cli("pair", "swap", "mirror")
    assert who_leads(tokyo, osaka) is other
    qemu_io(other.url(0), "read -P 6 3M 1M", "write -P 8 3M 1M")
    assert files[0].read_bytes() == files[1].read_bytes()


def who_leads(*sites: Daiko) -> Daiko:
    """Asked until one does, and no other."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lead = [site for site in sites if not shown(site)["is_followed"]]
        assert len(lead) < 2
        if lead:
            return lead[0]
    raise AssertionError("nobody leads")
