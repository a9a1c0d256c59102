"""The LUs on which the conformance suite runs: own disks and virtual LUs over every kind of back
end, thin and thick, with blocks of 512 and of 4096 bytes, each by two portals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from conformance.libiscsi_suite import Situation
from processes import Daiko, Tgt, free_port, image

SIZE = 60 << 20
"""Bytes of each LU, or of each part of one: enough for the longest transfers of the suite."""

Serve = Callable[[Path, ExitStack, "Scenario"], Daiko]
"""Starts what is to be tested; LUN 0 of it is the LU."""


@dataclass(frozen=True)
class Scenario:
    """An LU to be tested."""

    what: str
    serve: Serve
    block_size: int
    """Bytes."""
    thin: bool
    always: bool = False
    """Part of `make test`; the others are run by `make conformance` only."""

    @property
    def name(self) -> str:
        return f"{self.what}, {'thin' if self.thin else 'thick'}, {self.block_size}"

    @property
    def situation(self) -> Situation:
        return Situation(
            self.block_size,
            can_unmap=self.what != TGT,
            can_erase=self.thin and self.what not in (TGT, MIXED),
        )

    @contextmanager
    def running(self, folder: Path) -> Iterator[Sequence[str]]:
        """The LU's URL by each of two portals."""
        with ExitStack() as stack:
            daiko = self.serve(folder, stack, self)
            second = daiko.portal.rpartition(":")[0] + f":{_second_port(daiko)}"
            yield [daiko.url(0), daiko.url(0).replace(daiko.portal, second)]


def _second_port(daiko: Daiko) -> int:
    return int(daiko.options[daiko.options.index("--portal") + 1].rpartition(":")[2])


def _two_portals() -> list[str]:
    return ["--portal", f"127.0.0.1:{free_port()}"]


def _disk(folder: Path, stack: ExitStack, scenario: Scenario, name: str) -> Daiko:
    """A Daiko that serves one own disk."""
    options = ["--block-size", str(scenario.block_size), *_two_portals()]
    if not scenario.thin:
        options.append("--preallocate")
    file = image(folder / f"{name}.img", SIZE)
    daiko = Daiko(
        folder, file, mode="local", name=name, store=folder / f"{name}.store", options=options
    )
    return stack.enter_context(daiko)


def _tgt(folder: Path, stack: ExitStack, scenario: Scenario) -> Tgt:
    file = image(folder / "tgt.img", SIZE)
    return stack.enter_context(Tgt(folder, file, block_size=scenario.block_size))


def _gateway(folder: Path, stack: ExitStack, *urls: str) -> Daiko:
    daiko = Daiko(folder, *urls, name="first", store=folder / "first.store", options=_two_portals())
    return stack.enter_context(daiko)


def _own_disk(folder: Path, stack: ExitStack, scenario: Scenario) -> Daiko:
    return _disk(folder, stack, scenario, "disk")


def _over_daiko(folder: Path, stack: ExitStack, scenario: Scenario) -> Daiko:
    return _gateway(folder, stack, _disk(folder, stack, scenario, "sd1").url())


def _over_tgt(folder: Path, stack: ExitStack, scenario: Scenario) -> Daiko:
    return _gateway(folder, stack, _tgt(folder, stack, scenario).url())


def _over_two_daikos(folder: Path, stack: ExitStack, scenario: Scenario) -> Daiko:
    parts = [_disk(folder, stack, scenario, name).url() for name in ("sd1", "sd2")]
    return _gateway(folder, stack, *parts)


def _over_daiko_and_tgt(folder: Path, stack: ExitStack, scenario: Scenario) -> Daiko:
    first = _disk(folder, stack, scenario, "sd1").url()
    return _gateway(folder, stack, first, _tgt(folder, stack, scenario).url())


FILE = "file LU"
DAIKO = "virtual LU over a Daiko"
TGT = "virtual LU over tgt"
SPAN = "virtual LU that spans two Daikos"
MIXED = "virtual LU that spans a Daiko and tgt"

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(FILE, _own_disk, 512, thin=True, always=True),
        Scenario(FILE, _own_disk, 512, thin=False),
        Scenario(FILE, _own_disk, 4096, thin=True),
        Scenario(FILE, _own_disk, 4096, thin=False, always=True),
        Scenario(DAIKO, _over_daiko, 512, thin=True),
        Scenario(DAIKO, _over_daiko, 512, thin=False),
        Scenario(DAIKO, _over_daiko, 4096, thin=True, always=True),
        Scenario(DAIKO, _over_daiko, 4096, thin=False),
        Scenario(TGT, _over_tgt, 512, thin=False, always=True),
        Scenario(TGT, _over_tgt, 4096, thin=False),
        Scenario(SPAN, _over_two_daikos, 512, thin=True, always=True),
        Scenario(SPAN, _over_two_daikos, 512, thin=False),
        Scenario(SPAN, _over_two_daikos, 4096, thin=True),
        Scenario(SPAN, _over_two_daikos, 4096, thin=False),
        Scenario(MIXED, _over_daiko_and_tgt, 512, thin=True, always=True),
        Scenario(MIXED, _over_daiko_and_tgt, 4096, thin=False),
    )
}
"""By name. tgt cannot unmap, so an LU over it alone is thick."""
