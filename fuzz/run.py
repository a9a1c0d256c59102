"""Random and damaged bytes at every parser: `fuzz/run.py --count N [--only NAME] [--seed S]`.

A target is a file in this folder with the functions `corpus() -> list[bytes]` (good inputs to
start from) and `check(data: bytes) -> bool` (True: accepted, False: refused as the parser may
refuse; any exception is a finding), and `close()` where it has something to close. Its invariant
stands in its first line. A target that is more than a parser says its `COST`, and gets N / COST
cases: a whole port works on one case as long as a parser on twenty.

Most cases are corpus entries with one to four mutations, one in eight is purely random. Beside the
target's own invariant the harness watches three things:

- time: a batch of cases that does not end is interrupted by an alarm, and the case is reported;
- memory kept: the number of live allocations after the run, against that after a warm-up;
- memory used: the peak of the process, against that before the first case; and no case can get
  more than `ROOM_BYTES` of address space, so that one huge allocation is a MemoryError.

A finding is printed with the bytes and the seed, and kept in fuzz/findings/, from where every
later run replays it first. Once repaired it belongs to the golden cases of the tests.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

from mutation import Mutator  # noqa: E402

NO_TARGETS = {"run", "mutation", "golden", "port_rig"}
BATCH = 500
KEPT_BLOCKS = 3000
"""Live allocations that a run may add: caches of the interpreter, not a leak per case."""
PEAK_BYTES = 64 << 20
ROOM_BYTES = 1 << 30


class Stuck(BaseException):
    """A batch did not end in time. Not an Exception: no parser may catch it."""


class Finding(Exception):
    """A target broke its invariant."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of one target came to."""

    name: str
    cases: int
    accepted: int
    refused: int
    seconds: float
    finding: str = ""

    def __str__(self) -> str:
        line = (
            f"{self.name:24} {self.cases:9} cases  {self.accepted:9} accepted  "
            f"{self.refused:9} refused  {self.seconds:7.1f} s"
        )
        return f"{line}  FINDING\n{self.finding}" if self.finding else line


def targets(folder: Path) -> dict[str, Path]:
    """Name -> file of every target."""
    files = sorted(folder.glob("*.py"))
    return {file.stem: file for file in files if file.stem not in NO_TARGETS}


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stuck(signum: int, frame: FrameType | None) -> NoReturn:
    raise Stuck


class Run:
    """One target's cases."""

    def __init__(self, check: Callable[[bytes], bool], cases: Iterator[bytes], limit: float):
        self._check = check
        self._cases = cases
        self._limit = limit
        self.case = b""
        self.done = 0
        self.accepted = 0

    def go(self, count: int) -> None:
        """Run `count` more cases."""
        check, cases = self._check, self._cases
        while count > 0:
            signal.setitimer(signal.ITIMER_REAL, self._limit)
            for _ in range(min(BATCH, count)):
                data = self.case = next(cases)
                if check(data):
                    self.accepted += 1
                self.done += 1
            count -= BATCH
        signal.setitimer(signal.ITIMER_REAL, 0)


def known(folder: Path, name: str) -> list[bytes]:
    """Earlier findings of a target."""
    files = sorted((folder / "findings").glob(f"{name}-*.hex"))
    return [bytes.fromhex(file.read_text(encoding="ascii")) for file in files]


def keep(folder: Path, name: str, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()[:12]
    file = folder / "findings" / f"{name}-{digest}.hex"
    file.parent.mkdir(exist_ok=True)
    file.write_text(data.hex() + "\n", encoding="ascii")
    return file


def run(file: Path, count: int, seed: int, limit: float) -> Result:
    """Run one target; never raises for what the target does."""
    name, folder = file.stem, file.parent
    module = load(file)
    corpus = module.corpus()
    count //= getattr(module, "COST", 1)
    replayed = known(folder, name)
    work = Run(module.check, Mutator(corpus, f"{seed}/{name}").cases(replayed + corpus), limit)
    signal.signal(signal.SIGALRM, stuck)
    confine()
    peak = peak_bytes()
    started = time.monotonic()
    finding = ""
    try:
        work.go(max(count // 5, min(count, len(corpus) + len(replayed))))
        blocks = live_blocks()
        work.go(count - work.done)
        finding = growth(blocks, peak)
    except (Exception, Stuck) as error:  # noqa: BLE001
        signal.setitimer(signal.ITIMER_REAL, 0)
        kept = keep(folder, name, work.case)
        what = "".join(traceback.format_exception(error)[-6:])
        finding = f"  seed {seed}, case {work.done}, kept in {kept}\n  {work.case.hex()}\n{what}"
    seconds = time.monotonic() - started
    if hasattr(module, "close"):
        module.close()
    refused = work.done - work.accepted
    return Result(name, work.done, work.accepted, refused, seconds, finding)


def confine() -> None:
    """Leave this process `ROOM_BYTES` of address space beside what it has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + ROOM_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard in (resource.RLIM_INFINITY, -1) or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def live_blocks() -> int:
    gc.collect()
    return sys.getallocatedblocks()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def growth(blocks: int, peak: int) -> str:
    """What grew beyond bounds: `blocks` are those after the warm-up, `peak` that before it."""
    kept, used = live_blocks() - blocks, peak_bytes() - peak
    if kept > KEPT_BLOCKS:
        return f"  {kept} allocations more than after the warm-up"
    if used > PEAK_BYTES:
        return f"  {used >> 20} MiB more at the peak than before the first case"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000, help="cases for each parser")
    parser.add_argument("--only", action="append", help="name of a target; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time")
    parser.add_argument("--limit", type=float, default=20, help=f"seconds for {BATCH} cases")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the targets are")
    arguments = parser.parse_args()
    files = targets(arguments.folder)
    unknown = set(arguments.only or ()) - set(files)
    if unknown:
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(files)}")
    chosen = [file for name, file in files.items() if not arguments.only or name in arguments.only]
    failed = False
    # A process for each target: its memory is measured by itself, and a crash of the interpreter
    # ends that target only.
    with ProcessPoolExecutor(arguments.jobs, max_tasks_per_child=1) as pool:
        futures = [
            pool.submit(run, file, arguments.count, arguments.seed, arguments.limit)
            for file in chosen
        ]
        for future in futures:
            result = future.result()
            print(result, flush=True)
            failed |= bool(result.finding)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
