"""`make demo-sites`: a consistency group mirrored over two sites, with real processes.

Tokyo and Osaka each have a first controller and two second controllers: a Daiko that can copy, and
a tgt that can do nothing (with --lio a Linux kernel's target, in a guest, that only its own site
reaches). Two volumes lie on both of them, differently at each site. A foreign host
writes to them all through the initial copy; then the group is split, written to on both sides,
brought together in either direction, swapped to Osaka and back, taken over by Osaka when Tokyo
dies, and split by an error when the link is cut under load. After each step an initiator that is
not ours compares byte by byte.

How many bytes passed each link is counted where they pass (`site_network.py`).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from demo_console import MIB, console, run_demo, say, show
from foreign_host import CELL, ForeignHost, is_one_instant, put
from kernel_counters import Traffic, traffic_with
from processes import ProcessFailed, image, qemu_io, run
from site_controllers import LOG, VOLUMES, Site, attach, start
from site_network import KINDS, Network, apart, network

PATIENCE = "120"
"""Seconds that `pair wait` is given."""
ACROSS = "tokyo - osaka"


@dataclass
class Demo:
    """What runs, what the volumes must hold, and what was found."""

    folder: Path
    net: Network
    tokyo: Site
    osaka: Site
    images: dict[str, Path]
    """What hosts wrote to each volume."""
    host: ForeignHost
    stages: list[dict[str, Any]] = field(default_factory=list)
    checks: list[tuple[str, bool]] = field(default_factory=list)
    jobs_seen: int = 0

    # --- telling and checking -----------------------------------------------------------------

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A numbered step, with how long it took and what passed each link meanwhile."""
        console.rule(f"[bold]{len(self.stages) + 1}. {title}[/bold]", align="left")
        begun, before = time.monotonic(), self.net.links()
        yield
        passed = {name: now - before[name] for name, now in self.net.links().items()}
        self.stages.append(
            {
                "stage": title,
                "seconds": round(time.monotonic() - begun, 2),
                "links": {name: asdict(traffic) for name, traffic in passed.items()},
            }
        )

    def check(self, what: str, holds: bool) -> None:
        self.checks.append((what, holds))
        say(f"{what}: {'[green]yes[/green]' if holds else '[red]NO[/red]'}")

    def compare(self, *sites: Site) -> None:
        """Each volume at these sites with what hosts wrote, byte by byte, by qemu-img."""
        places = [(site, volume) for site in sites for volume in VOLUMES]
        with ThreadPoolExecutor(len(sites)) as pool:
            found = pool.map(lambda place: self._is_same(*place), places)
        for (site, volume), holds in zip(places, found, strict=True):
            self.check(f"{volume} in {site.name} is what hosts wrote", holds)

    def _is_same(self, site: Site, volume: str) -> bool:
        words = ("compare", "-f", "raw", "-F", "raw", self.images[volume], site.url(volume))
        done = run("qemu-img", *words, check=False)
        if done.returncode > 1:
            raise ProcessFailed(f"qemu-img cannot compare: {done.stderr.strip()}")
        return done.returncode == 0

    # --- what an administrator and hosts do -----------------------------------------------------

    def ask(self, site: Site, *words: str) -> None:
        show(site.first, *words, at=site.name)

    def typed(self, site: Site, *words: str) -> None:
        console.print(f"[dim]{site.name}$ daiko {' '.join(words)}[/dim]", highlight=False)

    def wait_until_paired(self, leads: Site) -> None:
        words = ("pair", "wait", "db", "--timeout", PATIENCE)
        self.typed(leads, *words)
        leads.first.cli(*words)
        states = (f"{pair['name']} is {pair['state']}" for pair in leads.get("pairs"))
        say(", ".join(states))

    def wait_until_copied(self) -> None:
        """To Osaka, or in reverse, by Tokyo."""
        self.wait_until_paired(self.tokyo)
        self.who_moved()

    def wait_for_error(self, words: str) -> None:
        """Until both pairs are split by error in Tokyo."""
        for pair in VOLUMES:
            done = self.tokyo.first.cli(
                *("pair", "wait", pair, "--state", "split", "--timeout", PATIENCE), check=False
            )
            if "is split by error" not in done.stderr:
                raise ProcessFailed(f"{pair} was to be split by error: {done.stderr.strip()}")
        reasons = [pair["reason"] for pair in self.tokyo.get("pairs")]
        self.check(f"the group is split by error: {reasons[0]}", words in reasons[0])

    def who_moved(self) -> None:
        """What the jobs of the pairs say, of those that were not told of yet."""
        jobs = [
            job
            for job in self.tokyo.get("jobs")
            if job["type"] == "pair" and job["id"] > self.jobs_seen
        ]
        for job in sorted(jobs, key=lambda job: job["id"]):
            self.jobs_seen = job["id"]
            say(
                f"job {job['id']}, asked by {job['asked_by']}: "
                f"{job['bytes_delegated'] / MIB:.1f} MiB moved by second controllers, "
                f"{job['bytes_through_first_controller'] / MIB:.1f} MiB through Tokyo's first one"
            )
        rest = "the rest" if jobs else "no job was handed to anybody: all of it"
        say(f"{rest} region by region through Tokyo's first controller")

    def refused(self, site: Site, *words: str, because: str) -> None:
        """A command that says what it would do, and does not do it unasked."""
        self.typed(site, *words)
        done = site.first.cli(*words, check=False)
        console.print(done.stderr.strip(), highlight=False)
        holds = done.returncode == 2 and because in done.stderr
        self.check(f"nothing is done unasked, and it says: {because}", holds)

    def write(self, site: Site, volume: str, cells: range, byte: int) -> None:
        """A host of this site writes to consecutive cells."""
        amount = len(cells) * CELL
        qemu_io(site.url(volume), f"write -P {byte} {cells.start * CELL} {amount}")
        say(f"a host in {site.name} writes {amount / MIB:g} MiB to {volume}")

    def keep(self, volume: str, cells: range, byte: int) -> None:
        """What a host wrote there counts from now on."""
        put(self.images[volume], cells, byte)


# --- the steps ----------------------------------------------------------------------------------


def first_copy(demo: Demo) -> dict[str, Any]:
    tokyo = demo.tokyo
    before = sockets(demo)
    demo.host.begin()
    demo.host.wait(2)
    say("qemu-io begins to write to both volumes in Tokyo, and goes on all the time")
    for volume in VOLUMES:
        demo.ask(
            tokyo,
            *("pair", "create", volume, volume, f"osaka:{volume}", "--group", "db", "--yes"),
        )
    demo.wait_until_copied()
    demo.host.wait(2)
    account = demo.host.rest()
    after = sockets(demo)
    told(demo, account.longest)
    moved = {name: now - before.get(name, Traffic()) for name, now in after.items()}
    jobs = [tokyo.get(f"jobs/{job['id']}") for job in tokyo.get("jobs") if job["type"] == "pair"]
    if jobs:
        demo.ask(tokyo, "job", "show", str(min(job["id"] for job in jobs)))
    render(moved)
    through = sum(job["bytes_through_first_controller"] for job in jobs)
    delegated = sum(job["bytes_delegated"] for job in jobs)
    size = sum(path.stat().st_size for path in demo.images.values())
    passed = moved["tokyo with osaka"].sent
    # A region of 64 KiB is copied anew for a write of 16 KiB, and each write is mirrored.
    most = size - delegated + 5 * account.bytes + 8 * MIB
    demo.check(
        f"the sockets bear out the books: Tokyo's first controller sent Osaka's "
        f"{passed / MIB:.1f} MiB",
        through <= passed <= most,
    )
    demo.compare(tokyo, demo.osaka)
    return {
        "host": asdict(account),
        "sockets": {name: asdict(traffic) for name, traffic in moved.items()},
        "steps": [step for job in jobs for step in job["steps"]],
        "bytes_delegated": delegated,
        "bytes_through_first_controller": through,
    }


def split_under_load(demo: Demo) -> None:
    demo.host.begin()
    demo.host.wait(3)
    demo.ask(demo.tokyo, "pair", "split", "db")
    demo.host.wait(3)
    told(demo, demo.host.rest().longest)
    journal, data = (first_byte(demo, demo.osaka, volume) for volume in VOLUMES)
    demo.check(
        f"both volumes in osaka are of one instant (turn {journal} in {LOG}, {data} in data)",
        is_one_instant(journal, data),
    )
    demo.compare(demo.tokyo)


def resync(demo: Demo) -> None:
    """What Osaka wrote is given up."""
    demo.write(demo.osaka, "data", range(64, 192), 0xEE)
    said = "2 MiB of it written there by hosts"
    demo.refused(demo.tokyo, "pair", "resync", "db", because=said)
    demo.ask(demo.tokyo, "pair", "resync", "db", "--yes")
    demo.wait_until_copied()
    demo.compare(demo.tokyo, demo.osaka)


def resync_reverse(demo: Demo) -> None:
    """What Tokyo wrote is given up."""
    demo.ask(demo.tokyo, "pair", "split", "db")
    demo.write(demo.tokyo, "data", range(64), 0xDD)
    demo.write(demo.osaka, "data", range(64, 192), 0xEE)
    demo.keep("data", range(64, 192), 0xEE)
    demo.compare(demo.osaka)
    said = "3 MiB of data will be overwritten, 1 MiB of it written there by hosts"
    demo.refused(demo.tokyo, "pair", "resync", "db", "--reverse", because=said)
    demo.ask(demo.tokyo, "pair", "resync", "db", "--reverse", "--yes")
    demo.wait_until_copied()
    demo.compare(demo.tokyo, demo.osaka)


def swap(demo: Demo) -> None:
    """The hosts move to Osaka, as planned, and back."""
    here = {demo.tokyo.name: demo.osaka, demo.osaka.name: demo.tokyo}
    for turn, leads in enumerate((demo.tokyo, demo.osaka)):
        demo.wait_until_paired(leads)
        demo.ask(leads, "pair", "swap", "db")
        follows, leads = leads, here[leads.name]
        states = {pair["name"]: pair["state"] for pair in leads.get("pairs")}
        demo.check(f"{leads.name} leads, paired", set(states.values()) == {"paired"})
        cells = range(96 + 64 * turn, 160 + 64 * turn)
        demo.write(leads, "data", cells, 0xA0 + turn)
        demo.keep("data", cells, 0xA0 + turn)
        demo.compare(leads, follows)


def take_over(demo: Demo) -> None:
    """Tokyo dies, its hosts go on in Osaka, and it comes back."""
    demo.tokyo.first.kill()
    say("tokyo's first controller is killed (kill -9)")
    demo.ask(demo.osaka, "pair", "swap", "db", "--yes")
    for volume, cells in (("data", range(128, 320)), (LOG, range(16, 32))):
        demo.write(demo.osaka, volume, cells, 0xCC)
        demo.keep(volume, cells, 0xCC)
    demo.compare(demo.osaka)
    demo.tokyo.first.start()
    say("tokyo's first controller is back")
    demo.ask(demo.tokyo, "site", "probe", "osaka")
    demo.wait_for_error("site osaka has taken over")
    demo.ask(demo.tokyo, "pair", "show", "data")
    demo.compare(demo.osaka)
    demo.ask(demo.tokyo, "pair", "resync", "db", "--reverse", "--yes")
    demo.wait_until_copied()
    demo.compare(demo.tokyo, demo.osaka)


def cut_under_load(demo: Demo) -> None:
    demo.host.begin()
    demo.host.wait(3)
    demo.net.cut()
    say("the link between the sites is cut; the host goes on writing, and is held meanwhile")
    demo.wait_for_error("osaka")
    demo.host.wait(3)
    told(demo, demo.host.rest().longest)
    demo.compare(demo.tokyo)
    demo.ask(demo.tokyo, "pair", "ls")
    demo.net.mend()
    say("the link is mended")
    demo.ask(demo.tokyo, "site", "probe", "osaka")
    demo.ask(demo.tokyo, "pair", "resync", "db", "--yes")
    demo.wait_until_copied()
    demo.compare(demo.tokyo, demo.osaka)


# --- what they need -----------------------------------------------------------------------------


def told(demo: Demo, longest: float) -> None:
    account = demo.host.account
    say(
        f"the host had {account.writes:,} writes ({account.bytes / MIB:.1f} MiB) acknowledged, and "
        f"no error; the longest turn took {longest:.2f} s"
    )


def first_byte(demo: Demo, site: Site, volume: str) -> int:
    """Of a volume, as a foreign host reads it."""
    path = demo.folder / "first-block"
    run(
        *("qemu-img", "dd", "-f", "raw", "-O", "raw", "bs=512", "count=1"),
        *(f"if={site.url(volume)}", f"of={path}"),
    )
    return path.read_bytes()[0]


def sockets(demo: Demo) -> dict[str, Traffic]:
    """Of each Daiko: what the kernel counted on the connections that it opened to each other."""
    ports = {port: name for site in (demo.tokyo, demo.osaka) for port, name in site.ports.items()}
    found = {}
    for site in (demo.tokyo, demo.osaka):
        for controller in (site.first, site.sd):
            within = demo.net.within(site.name)
            for port, traffic in traffic_with(controller.pid, ports, within).items():
                found[f"{controller.name} with {ports[port]}"] = traffic
    return found


def render(moved: dict[str, Traffic]) -> None:
    made = Table(title="Counted by the kernel on the sockets during the initial copy")
    for column in ("controller", "sent MiB", "received MiB"):
        made.add_column(column, justify="left" if column == "controller" else "right")
    for name, traffic in moved.items():
        if traffic.total:
            made.add_row(name, f"{traffic.sent / MIB:.2f}", f"{traffic.received / MIB:.2f}")
    console.print(made)


def render_links(demo: Demo) -> None:
    made = Table(title=f"MiB over each link, counted by {demo.net.counted_by}")
    made.add_column("step", no_wrap=True)
    made.add_column("s", justify="right")
    names = list(demo.stages[-1]["links"])
    for name in names:
        if name.startswith("within"):
            made.add_column(name, justify="right")
        else:
            here, _, there = name.partition(" - ")
            made.add_column(f"{here} to {there}", justify="right")
            made.add_column(f"{there} to {here}", justify="right")
    for number, stage in enumerate(demo.stages, 1):
        cells = []
        for name in names:
            traffic = stage["links"][name]
            cells.append(f"{traffic['sent'] / MIB:.1f}")
            if not name.startswith("within"):
                cells.append(f"{traffic['received'] / MIB:.1f}")
        made.add_row(f"{number}. {stage['stage']}", f"{stage['seconds']:.1f}", *cells)
    console.print(made)


def report(demo: Demo, copied: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "verified": all(holds for _, holds in demo.checks),
        "seconds": round(seconds, 2),
        "network": demo.net.description,
        "links_counted_by": demo.net.counted_by,
        "bytes": {volume: path.stat().st_size for volume, path in demo.images.items()},
        "stages": demo.stages,
        "initial_copy": copied,
        "checks": [{"what": what, "holds": holds} for what, holds in demo.checks],
    }


def demonstrate(
    folder: Path, options: argparse.Namespace, stack: ExitStack
) -> tuple[bool, dict[str, Any]]:
    begun = time.monotonic()
    net = network(options.network, stack)
    size = options.size * MIB
    tokyo, osaka = start(folder, net, size, stack, lio=options.lio)
    images = {
        volume: image(folder / f"{volume}.written", tokyo.sizes[volume], seed=seed)
        for seed, volume in enumerate(VOLUMES)
    }
    urls = [tokyo.url(volume) for volume in VOLUMES]
    host = ForeignHost(*urls, (images[LOG], images["data"]))
    stack.callback(host.close)
    demo = Demo(folder, net, tokyo, osaka, images, host)
    say(f"two sites: {net.description}; bytes over links are counted by {net.counted_by}")
    with demo.stage("set up and fill"):
        attach(demo.tokyo, demo.osaka, demo.ask)
        for volume in VOLUMES:
            run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", images[volume],
                tokyo.url(volume))  # fmt: skip
        demo.compare(tokyo)
    with demo.stage("initial copy under load"):
        copied = first_copy(demo)
    with demo.stage("split under load"):
        split_under_load(demo)
    with demo.stage("resync"):
        resync(demo)
    with demo.stage("resync --reverse"):
        resync_reverse(demo)
    with demo.stage("swap, and back"):
        swap(demo)
    if not options.short:
        with demo.stage("Osaka takes over"):
            take_over(demo)
        with demo.stage("cut of the link"):
            cut_under_load(demo)
    render_links(demo)
    figures = report(demo, copied, time.monotonic() - begun)
    return figures["verified"], figures


def main() -> int:
    parser = argparse.ArgumentParser(description="A mirror over two sites, on one machine.")
    parser.add_argument("--size", type=int, default=128, metavar="MIB", help="of the data (128)")
    parser.add_argument(
        "--short", action="store_true", help="without take-over and cut of the link"
    )
    parser.add_argument(
        "--lio", action="store_true", help="the Linux kernel's target (in guests) instead of tgt"
    )
    parser.add_argument(
        "--network", choices=("auto", *KINDS), default="auto", help="what the sites are in"
    )
    network_kind = parser.parse_known_args()[0].network
    parser.set_defaults(network=apart(network_kind))
    return run_demo(parser, demonstrate)


if __name__ == "__main__":
    sys.exit(main())
