"""`make demo`: the main job, end to end, with real processes on loopback.

A first controller without disks (the switch of the source's Fig 8), three second controllers (two
Daikos that can copy, one tgt that can do nothing) and a backup device that all of them reach. A
foreign tool writes an ext4 image of real files to a virtual LU that lies on all three; a direct
backup is asked for; the backup is read back by the foreign tool and compared byte for byte.

How many bytes went through which controller is counted by the kernel on their sockets.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import shutil
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from demo_console import BLOCK, MIB, console, run_demo, say, show
from demo_image import make_image
from kernel_counters import Traffic, cpu_seconds, traffic_with
from processes import Daiko, Tgt, image, run

SHARES = {"sd1": 3, "sd2": 3, "old": 2}
"""How many eighths of the virtual LU lie on which second controller."""


@dataclass
class Site:
    """The processes of the demonstration."""

    folder: Path
    size: int
    """Bytes of the virtual LU."""
    sd1: Daiko
    sd2: Daiko
    old: Tgt
    vault: Tgt
    first: Daiko
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of the virtual LU on each second controller."""
        return parts(self.size)

    @property
    def ports(self) -> dict[str, int]:
        return {name: getattr(self, name).port for name in ("sd1", "sd2", "old", "vault")}

    @property
    def controllers(self) -> dict[str, Daiko]:
        return {"this controller": self.first, "sd1": self.sd1, "sd2": self.sd2}


def parts(size: int) -> dict[str, int]:
    return {name: size * share // 8 for name, share in SHARES.items()}


def start(folder: Path, size: int, stack: ExitStack) -> Site:
    """Start all processes, and attach them to the first controller."""
    part = parts(size)
    site = Site(
        folder,
        size,
        sd1=Daiko(folder, image(folder / "sd1.img", part["sd1"]), name="sd1", mode="local"),
        sd2=Daiko(folder, image(folder / "sd2.img", part["sd2"]), name="sd2", mode="local"),
        old=Tgt(folder, image(folder / "old.img", part["old"]), name="old"),
        vault=Tgt(folder, image(folder / "vault.img", size), name="vault"),
        first=Daiko(folder, name="first", store=folder / "first"),
    )
    for process in (site.sd1, site.sd2, site.old, site.vault, site.first):
        stack.enter_context(process)
    return site


def attach(site: Site) -> None:
    """What an administrator does once: attach, carve a virtual LU, give it to a host."""
    for owner in (site.sd1, site.sd2):
        # The second controllers let the first one name LUs of the backup device in a copy.
        owner.cli("host", "allow-copy", "any", site.vault.portal)
    for name, process in (
        ("sd1", site.sd1),
        ("sd2", site.sd2),
        ("old", site.old),
        ("vault", site.vault),
    ):
        site.first.cli("backend", "add", name, f"iscsi://{process.portal}/{process.iqn}")
    luns = {"sd1": 0, "sd2": 0, "old": 1}
    extents = [
        word
        for name, size in site.parts.items()
        for word in ("--extent", f"{name}/{luns[name]}:0:{size // BLOCK}")
    ]
    site.first.cli("volume", "add", "alpha", *extents)
    site.first.cli("host", "add", "any", "--initiator", "*")
    site.first.cli("host", "map", "any", "alpha", "--lun", "0")


@dataclass(frozen=True)
class Count:
    """What the kernel counted while the backup ran."""

    first: dict[str, Traffic]
    """Of the first controller's connections to each other controller."""
    moved: dict[str, Traffic]
    """Of each controller's connections to others, together."""
    cpu: dict[str, float]


def count(site: Site) -> Count:
    ports = site.ports
    first = traffic_with(site.first.pid, ports.values())
    moved = {
        name: sum(traffic_with(process.pid, ports.values()).values(), Traffic())
        for name, process in site.controllers.items()
    }
    cpu = {name: cpu_seconds(process.pid) for name, process in site.controllers.items()}
    return Count({name: first[port] for name, port in ports.items()}, moved, cpu)


def difference(before: Count, after: Count) -> Count:
    return Count(
        {name: after.first[name] - before.first[name] for name in after.first},
        {name: after.moved[name] - before.moved[name] for name in after.moved},
        {name: after.cpu[name] - before.cpu[name] for name in after.cpu},
    )


def verify(site: Site, written: Path) -> bool:
    """Read the backup back with a tool that is not ours, straight from the backup device."""
    copy = site.folder / "read-back.ext4"
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", site.vault.url(1), copy)
    same = filecmp.cmp(written, copy, shallow=False)
    say(f"backup read back by qemu-img: {'identical to' if same else 'DIFFERS FROM'} the image")
    fsck = shutil.which("e2fsck", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or "e2fsck"
    done = run(fsck, "-f", "-n", copy, check=False)
    say(f"e2fsck of the backup: {'clean' if done.returncode == 0 else done.stdout}")
    return same and done.returncode == 0


def render(counted: Count) -> None:
    sockets = Table(title="Counted by the kernel on the sockets while the backup ran")
    for column in ("controller", "sent MiB", "received MiB", "CPU s"):
        sockets.add_column(column, justify="left" if column == "controller" else "right")
    for name, traffic in counted.moved.items():
        sockets.add_row(
            name,
            f"{traffic.sent / MIB:.2f}",
            f"{traffic.received / MIB:.2f}",
            f"{counted.cpu[name]:.3f}",
        )
    for name, traffic in counted.first.items():
        sockets.add_row(
            f"  of this controller, with {name}",
            f"{traffic.sent / MIB:.2f}",
            f"{traffic.received / MIB:.2f}",
            "",
        )
    console.print(sockets)


def costs(site: Site) -> dict[str, float]:
    """CPU time of the first controller for the part that can be handed over, both ways."""
    handed_over = (site.parts["sd1"] + site.parts["sd2"]) // BLOCK
    found = {}
    for mode in ("delegate", "direct"):
        before = cpu_seconds(site.first.pid)
        site.first.cli(
            *("backup", "run", "alpha", "--to", "vault", "--range", f"0:{handed_over}"),
            *("--mode", mode, "--json"),
        )
        found[mode] = round(cpu_seconds(site.first.pid) - before, 4)
    say(
        f"the {handed_over * BLOCK // MIB} MiB of sd1 and sd2 once more; CPU of the first "
        f"controller: {found['delegate']:.3f} s when they copy, {found['direct']:.3f} s else"
    )
    return found


def report(site: Site, job: dict, counted: Count, verified: bool, seconds: float) -> dict:
    wanted = (
        "executor",
        "delegated",
        "blocks",
        "block_size",
        "bytes_through_first_controller",
        "bytes_moved",
        "reason",
        "rejected",
        "seconds",
        "source",
        "destination",
    )
    steps = []
    for step in job["steps"]:
        steps.append({name: step[name] for name in wanted})
    return {
        "verified": verified,
        "seconds": round(seconds, 2),
        "stages": site.stages,
        "bytes": site.size,
        "iscsi_ports": {"first": site.first.port, **site.ports},
        "steps": steps,
        "counted_on_sockets": {
            "by_controller": {
                name: {
                    "sent": traffic.sent,
                    "received": traffic.received,
                    "cpu_seconds": counted.cpu[name],
                }
                for name, traffic in counted.moved.items()
            },
            "first_controller_with": {
                name: {"sent": traffic.sent, "received": traffic.received}
                for name, traffic in counted.first.items()
            },
        },
    }


def believable(site: Site, job: dict, counted: Count) -> bool:
    """The sockets bear out the books: next to nothing passed between the first controller and
    the second controllers that copied by themselves; the rest came from the one that cannot."""
    delegated = {step["source"].partition("/")[0] for step in job["steps"] if step["delegated"]}
    own = {step["source"].partition("/")[0] for step in job["steps"] if not step["delegated"]}
    fits = bool(delegated) and all(counted.first[name].total < MIB // 4 for name in delegated)
    return fits and all(counted.first[name].received >= site.parts[name] for name in own)


def main_job(folder: Path, options: argparse.Namespace, stack: ExitStack) -> tuple[bool, dict]:
    size = options.size * MIB
    begun = last = time.monotonic()
    site: Site | None = None

    def stage(name: str) -> None:
        nonlocal last
        assert site is not None
        now = time.monotonic()
        site.stages[name] = round(now - last, 2)
        last = now

    site = start(folder, size, stack)
    attach(site)
    stage("start and attach")
    say(
        "one first controller without disks; second controllers sd1, sd2 (Daiko) and old (tgt); "
        "backup device vault"
    )
    show(site.first, "function", "ls")
    show(site.first, "mapping", "show", "alpha")
    last = time.monotonic()
    written, files = make_image(folder, size)
    stage("make the image")
    say(
        f"ext4 image of {size // MIB} MiB with {files:,} real files; qemu-img writes it to the "
        "virtual LU"
    )
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", written, site.first.url(0))
    stage("write through the first controller")
    show(site.first, "explain", "backup", "alpha", "--to", "vault")
    last = time.monotonic()
    before = count(site)
    show(site.first, "backup", "run", "alpha", "--to", "vault")
    counted = difference(before, count(site))
    stage("direct backup")
    identifier = json.loads(site.first.cli("backup", "ls", "--json").stdout)[0]["id"]
    job = json.loads(site.first.cli("backup", "show", str(identifier), "--json").stdout)
    render(counted)
    last = time.monotonic()
    identical = verify(site, written)
    stage("read back and compare")
    cpu = costs(site)
    stage("the same copy by either, for its cost")
    verified = identical and believable(site, job, counted)
    figures = report(site, job, counted, verified, time.monotonic() - begun)
    return verified, {**figures, "cpu_seconds_of_first_controller": cpu}


def main() -> int:
    parser = argparse.ArgumentParser(description="The main job end to end, on loopback.")
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the volume (512)")
    return run_demo(parser, main_job)


if __name__ == "__main__":
    sys.exit(main())
