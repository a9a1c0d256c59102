"""The copy manager's limits, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Retries:
    """Bounded back-off: how long to wait before each further try of one thing."""

    delays: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 4.0, 8.0, 8.0, 16.0, 16.0)
    """Seconds. As many further tries as there are delays; together about a minute, the time in
    which a controller restarts or fails over to its other half."""

    within: float = 300.0
    """Seconds after the first failure when no further try is begun, however few there were: a try
    may itself take long (a device whose controller is gone waits for it before it says so)."""

    def begin(self, clock: Callable[[], float]) -> Tries:
        """Count the failures of one thing."""
        return Tries(self, clock)


class Tries:
    """The tries of one thing, from its first failure on."""

    __slots__ = ("_clock", "_failed", "_first", "_retries")

    def __init__(self, retries: Retries, clock: Callable[[], float]) -> None:
        self._retries = retries
        self._clock = clock
        self._failed = 0
        self._first = 0.0

    def failed(self) -> float | None:
        """It failed: seconds to wait before the next try, or None to give up."""
        now = self._clock()
        if not self._failed:
            self._first = now
        self._failed += 1
        if self._failed > len(self._retries.delays) or now - self._first > self._retries.within:
            return None
        return self._retries.delays[self._failed - 1]

    def succeeded(self) -> None:
        """It was done: a later failure is a first one again."""
        self._failed = 0


@dataclass(frozen=True, slots=True)
class CopySettings:
    """One value for a whole copy manager."""

    buffer_bytes: int = 32 * MIB
    """Payload held by all transfers of all jobs together. Transports may hold a second copy of
    what they are sending, so this is half of the 64 MiB that copies may use."""
    transfer_bytes: int = MIB // 4
    """Of one read and write of this controller: no more than an initiator may send with its
    command."""
    least_transfers_in_flight: int = 16
    """Of steps between the same devices: 4 MiB stay in the processor's cache, and when controllers
    share a processor each has something to do in its turn."""
    transfers_in_flight: int = 64
    """At most, as many as its way needs (`window.py`); a job alone fills a long link
    with them, several share `buffer_bytes`."""
    device_copy_bytes: int = 8 * MIB
    """Of one copy that two devices make among themselves. A few milliseconds in memory, less than
    a tenth of a second on a disk: so long a halt, or a COMPARE AND WRITE there, may wait."""
    device_copies_in_flight: int = 2
    """Of one step."""
    batches_in_flight: int = 4
    """Steps of one job that are carried out side by side, by different executors or ranges."""
    commands_in_flight: int = 2
    """Second commands at one controller, at least: one is carried out, the next waits in its task
    set, so that it never idles. More where its own limit says that it works on more."""
    maximum_commands_in_flight: int = 8
    running_jobs: int = 4
    """Of administrators; those of hosts start at once."""
    unfinished_jobs: int = 1000
    """Of administrators, running and waiting for their turn. Beyond, a further one is refused."""
    running_host_jobs: int = 64
    """Beyond, a host is told TASK SET FULL."""
    confirm_seconds: float = 1.0
    """Least time between two checkpoints of a job. A crash costs at most this much work."""
    progress_seconds: float = 0.25
    command_seconds: float = 180.0
    """Time allowed to a second command, however little it copies."""
    command_rate: int = 4 * MIB
    """Bytes a second of all commands at one controller together, below which it counts as stuck:
    a command is allowed the time that it and those beside it take at this rate as well. A host's
    command may copy many gigabytes, and whoever ends it early throws away what was done. That a
    controller is gone shows much sooner, by pings."""
    retries: Retries = Retries()
    host_retries: Retries = Retries((0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0), within=16.0)
    """For jobs of hosts, so that the host hears of it before its own time-out."""
    lost_tries: int = 2
    """How often a step stays with an executor whose connection was lost in a command."""
    host_jobs_kept: int = 1000
    """Ended jobs of hosts in the store; older ones are dropped. Of administrators: as they say
    (`SystemRecord.jobs_kept`)."""
    steps_kept: int = 20_000
    """Of all ended jobs of hosts, and as many of administrators: some 35 MB of memory each. A
    backup of a volume of 100 extents has 100."""
    stop_seconds: float = 10.0
    """What is in flight has this long to end when the controller stops."""

    def seconds_for(self, size: int, beside: int) -> float:
        """How long a second command of `size` bytes may take with so many like it at its
        controller, itself included."""
        return self.command_seconds + size * beside / self.command_rate
