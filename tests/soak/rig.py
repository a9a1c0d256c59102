"""The system that is soaked: a first controller before two Daikos and a tgt, all in memory.

span    cells of all writers and foreign tools, in stretches over sd1, sd2 and old by turns
calm    written once, then only copied from, over the same three
twin    where copies of calm go, and are compared
vault   on sd2: where backups of span go while it is written
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from processes import Daiko, Process, Tgt, image, qemu_io, run
from soak.model import CELL

BLOCK = 512
JOBS_KEPT = 8
"""By the first controller: so few that the first third of a soak has reached the bound, and what
grows after that is no record of a job. One of a backup has some 140 steps of 1.7 KB."""
MIB = 1 << 20
CALM = 8 * MIB
STRETCH = 1 * MIB + 24 * CELL
"""Of span on one back end: no multiple of what is written at once, so that requests cross."""
USER, SECRET = "soak", "a secret for the soak"


@dataclass
class Rig:
    folder: Path
    sd1: Daiko
    sd2: Daiko
    old: Tgt
    first: Daiko
    calm_digest: str
    initiators: list[str]
    chap: dict[str, tuple[str, str]]

    @property
    def backends(self) -> dict[str, Process]:
        return {"sd1": self.sd1, "sd2": self.sd2, "old": self.old}

    def digest(self, lun: int) -> str:
        """Of what a host reads from CALM bytes of a LUN."""
        path = self.folder / f"read-{lun}"
        run("qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=1M", f"count={CALM // MIB}",
            f"if={self.first.url(lun)}", f"of={path}")  # fmt: skip
        return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def rig(folder: Path, *, writers: int, cells: int) -> Iterator[Rig]:
    """All processes, and everything set up by the command line. `cells`: of span."""
    stretches = -(-cells * CELL // STRETCH)
    share = -(-stretches // 3) * STRETCH + 2 * CALM
    disks = {name: image(folder / f"{name}.img", share) for name in ("sd1", "sd2", "old")}
    vault = image(folder / "vault.img", stretches * STRETCH)
    initiators = [f"iqn.2026-11.com.example:writer-{number}" for number in range(writers)]
    chap = {str(number): (USER, SECRET) for number in range(1, writers, 2)}
    with (
        Daiko(folder, disks["sd1"], name="sd1", mode="local", store=folder / "sd1") as sd1,
        Daiko(folder, disks["sd2"], lun={1: [vault]}, name="sd2", mode="local",
              store=folder / "sd2") as sd2,
        Tgt(folder, disks["old"], name="old") as old,
        Daiko(folder, name="first", store=folder / "first") as first,
    ):  # fmt: skip
        first.cli("system", "set", "--jobs-kept", str(JOBS_KEPT))
        for name, process in (("sd1", sd1), ("sd2", sd2), ("old", old)):
            first.cli("backend", "add", name, f"iscsi://{process.portal}/{process.iqn}")
        _volumes(first, stretches)
        _hosts(folder, first, initiators, chap)
        qemu_io(first.url(1), *(f"write -P {1 + at // MIB} {at} 1M" for at in range(0, CALM, MIB)))
        made = Rig(folder, sd1, sd2, old, first, "", initiators, chap)
        made.calm_digest = made.digest(1)
        yield made


def _volumes(first: Daiko, stretches: int) -> None:
    devices = ("sd1/0", "sd2/0", "old/1")
    ends = dict.fromkeys(devices, 0)

    def add(name: str, sizes: list[int]) -> None:
        words = []
        for number, size in enumerate(sizes):
            device = devices[number % 3]
            words += ["--extent", f"{device}:{ends[device]}:{size // BLOCK}"]
            ends[device] += size // BLOCK
        first.cli("volume", "add", name, *words)

    add("span", [STRETCH] * stretches)
    third = CALM // 3 // CELL * CELL
    add("calm", [third, third, CALM - 2 * third])
    add("twin", [CALM - 2 * third, third, third])


def _hosts(
    folder: Path, first: Daiko, initiators: list[str], chap: dict[str, tuple[str, str]]
) -> None:
    luns = ["--lun", "0=span", "--lun", "1=calm", "--lun", "2=twin"]
    proved = [initiators[int(number)] for number in chap]
    plain = [name for name in initiators if name not in proved]
    first.cli("host", "add", "plain", *_each("-i", [*plain, "*"]), *luns)
    if proved:
        secret = folder / "secret"
        secret.write_text(SECRET + "\n")
        first.cli("host", "add", "proved", *_each("-i", proved), *luns)
        first.cli("host", "set-chap", "proved", "--user", USER, "--secret-file", str(secret))


def _each(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]
