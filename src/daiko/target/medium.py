"""FORMAT UNIT and SANITIZE: work on the whole medium of a unit (SBC-4, 4.10, 4.11, 5.3, 5.30).

While it goes on no command reaches the blocks: a bar answers NOT READY with how far it is, and
what is at the device already is waited for (`exclusion.py`). The work survives everything but its
end: the loss of the host, task management, a restart of the controller. What is at work is
therefore kept (`kept.py`) before the first block is touched. After a restart a SANITIZE begins
again with its first pass (4.11.3); a FORMAT UNIT that was cut short leaves MEDIUM FORMAT CORRUPTED
until the next one succeeds (4.10). A SANITIZE that fails leaves the unit closed, until one succeeds
or, where its AUSE bit allowed that, EXIT FAILURE MODE.

A SANITIZE of a unit that is one whole medium of a device that can do it itself (an LU of a second
controller that lists the command) is the device's: it is begun there and followed, and what it says
of its progress, its end or its failure is what hosts are told. Once it has taken it over it goes on
by itself; that is kept as well, so that after a restart it is asked, not begun again. What the
device refuses, and everything else, is written by this controller:

- FORMAT UNIT: the initialization pattern, by WRITE SAME; with the default pattern (zeros) the
  blocks are unmapped as well where the device can.
- OVERWRITE: the pattern, by plain WRITEs, as often as asked for, flushed after each pass. (A WRITE
  SAME of zeros may punch holes, and what was there would stay on the disk below.)
- BLOCK ERASE: zeros by plain WRITEs, a flush, then all is unmapped.

Blocks of a sanitized file can only be as clean as its file system writes in place, and those of an
LU of a second controller as that one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from daiko.device.block import BlockDevice, Done, Level
from daiko.device.error import Aborted, Busy, DeviceError, Refused, Unreachable, Unsupported
from daiko.device.sanitize import Sanitization
from daiko.scsi import sense
from daiko.scsi.medium_parameters import Overwrite
from daiko.scsi.opcode import Status
from daiko.scsi.sense import CheckCondition, Sense
from daiko.target.bar import Bar
from daiko.target.event import Event
from daiko.target.kept import MediumWork, WorkKind

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task

log = structlog.get_logger(__name__)

CHUNK = 1 << 20
"""Bytes of one WRITE."""
LARGE_CHUNK = 16 << 20
"""Bytes of one WRITE SAME or UNMAP."""
WHOLE = 0x10000
"""Progress indication of work that is done."""

_TRANSIENT = (Unreachable, Busy, Aborted)
FIRST_RETRY, LONGEST_RETRY, MOST_RETRIES = 1.0, 30.0, 40
"""Seconds, and how often the same chunk is tried: about 20 minutes."""


class Medium:
    """The state of one unit's medium, where it is not just usable."""

    __slots__ = ("_by", "_is_closed", "_run", "_unit", "_waiting", "work")

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit
        self.work: MediumWork | None = None
        """What is at work, or has failed."""
        self._run: _Run | _RunOfDevice | None = None
        self._waiting: tuple[ItlNexus, Task] | None = None
        """The command that is answered at the end."""
        self._by: ItlNexus | None = None
        """Whose command it was: it need not be told of its end."""
        self._is_closed = False

    @property
    def bars(self) -> int:
        """What bars commands."""
        work = self.work
        if work is None:
            return 0
        if work.kind is WorkKind.FORMAT:
            return Bar.FORMAT_FAILED if work.has_failed else Bar.FORMATTING
        return Bar.SANITIZE_FAILED if work.has_failed else Bar.SANITIZING

    def condition(self) -> Sense:
        """What REQUEST SENSE says, and commands that are barred: how far the work is."""
        work = self.work
        if work is None:
            return sense.no_sense()
        if work.has_failed:
            if work.kind is WorkKind.FORMAT:
                return sense.medium_format_corrupted()
            return sense.sanitize_command_failed()
        progress = 0 if self._run is None else self._run.progress
        if work.kind is WorkKind.FORMAT:
            return sense.format_in_progress(progress)
        return sense.sanitize_in_progress(progress)

    # ------------------------------------------------------------------ by commands

    def begin(self, itl: ItlNexus, task: Task, work: MediumWork, *, immediate: bool) -> None:
        """Begin the work of a command; ends the task, at once or at the end of the work. Raises
        CheckCondition where a failed SANITIZE does not allow it."""
        before = self.work
        is_closed = before is not None and before.is_restricted and before.has_failed
        if is_closed and not work.is_restricted:
            raise CheckCondition(sense.invalid_field_in_cdb(1, 5))
        self._set(work)
        self._by = itl

        def kept(is_kept: bool) -> None:
            if not is_kept:
                self._set(before)
                itl.refuse(task, sense.internal_target_failure())
                return
            log.info("medium work begun", unit=self._name, kind=work.kind)
            if immediate or itl.is_ending(task):
                itl.finish(task, Status.GOOD)
                self._start(None)
            else:
                self._waiting = (itl, task)
                self._start(task)

        self._keep(work, kept)

    def exit_failure_mode(self, itl: ItlNexus, task: Task) -> None:
        """Leave the failure of a SANITIZE whose AUSE bit was one. Raises CheckCondition."""
        work = self.work
        if work is None or not work.has_failed or work.kind is WorkKind.FORMAT:
            itl.finish(task, Status.GOOD)
            return
        if work.is_restricted:
            raise CheckCondition(sense.invalid_field_in_cdb(1, 4))

        def kept(is_kept: bool) -> None:
            if is_kept:
                self._set(None)
                itl.finish(task, Status.GOOD)
            else:
                itl.refuse(task, sense.internal_target_failure())

        def left(error: DeviceError | None) -> None:
            if error is None:
                self._keep(None, kept)
            else:
                self._unit.fail(itl, task, error)

        if work.is_handed_over:
            self._unit.bare_device.exit_failure_mode(left)
        else:
            left(None)

    def let_go(self, task: Task) -> None:
        """Task management wants the command ended: it ends, the work goes on (4.11.2)."""
        if self._waiting is not None and self._waiting[1] is task:
            itl, _ = self._waiting
            self._waiting = None
            itl.finish(task, Status.GOOD)

    # ------------------------------------------------------------------ by the controller

    def take_up(self, work: MediumWork) -> None:
        """Go on after a restart, before any host reaches the unit."""
        if work.kind is WorkKind.FORMAT and not work.has_failed:
            work = replace(work, has_failed=True)
            self._keep(work, _ignore)
        self._set(work)
        if not work.has_failed:
            log.info("medium work goes on", unit=self._name, kind=work.kind)
            self._start(None)

    def close(self) -> None:
        """The unit goes. What is at work is kept, and goes on where it is taken up."""
        self._is_closed = True
        if self._run is not None:
            self._run.stop()

    # ------------------------------------------------------------------ the work

    @property
    def _name(self) -> str:
        return self._unit.identity.name

    def _set(self, work: MediumWork | None) -> None:
        self.work = work
        self._unit.refresh_bars()

    def _keep(self, work: MediumWork | None, done: Callable[[bool], None]) -> None:
        keeper = self._unit.keeper
        if keeper is None:
            done(True)
        else:
            keeper.keep_medium_work(work, done)

    def _start(self, asking: Task | None) -> None:
        unit, work = self._unit, self.work
        assert work is not None
        alone = unit.alone

        def operation(device: BlockDevice, leave: Done) -> None:
            def ended(error: DeviceError | None) -> None:
                self._ended(error, leave)

            def write() -> None:
                self._set_handed_over(False)
                self._run = _Run(unit, work, ended)
                self._run.go_on()

            if work.kind is WorkKind.FORMAT:
                write()
            else:
                self._run = _RunOfDevice(unit, work, ended, self._set_handed_over, write)
                self._run.go_on()

        # What waits at the device for blocks is told what everybody is told from now on.
        not_ready = Refused(
            "the medium is at work",
            status=Status.CHECK_CONDITION,
            sense=unit.sense_bytes(self.condition()),
        )
        alone.run_alone(asking, 0, unit.blocks, operation, _ignore, against_reads=True)
        alone.refuse_range(0, unit.blocks, not_ready)

    def _set_handed_over(self, is_so: bool) -> None:
        """The device goes on by itself from now on, or this controller does the work."""
        work = self.work
        assert work is not None
        if work.is_handed_over is not is_so:
            self.work = replace(work, is_handed_over=is_so)
            self._keep(self.work, _ignore)  # where that fails, a restart begins again: as good

    def _ended(self, error: DeviceError | None, leave: Done) -> None:
        work = self.work
        assert work is not None
        if error is not None:
            log.error("medium work failed", unit=self._name, kind=work.kind, why=str(error))
            failed = replace(work, has_failed=True)
            self._keep(failed, _ignore)  # where that fails, a restart tries again: as good
            self._finish(failed, leave)
            return

        def kept(is_kept: bool) -> None:
            if is_kept:
                log.info("medium work done", unit=self._name, kind=work.kind)
                self._finish(None, leave)
            elif not self._is_closed:
                # As long as the store says that it goes on, a restart would wipe the blocks again.
                asyncio.get_running_loop().call_later(FIRST_RETRY, lambda: self._keep(None, kept))

        self._keep(None, kept)

    def _finish(self, work: MediumWork | None, leave: Done) -> None:
        self._run = None
        before = self.work
        assert before is not None
        self._set(work)
        self._unit.alone.admit_range(0, self._unit.blocks)
        leave(None)
        waiting, self._waiting = self._waiting, None
        if work is None:
            self._unit.announce(Event.MEDIUM_MAY_HAVE_CHANGED, by=self._by)
        if waiting is None:
            return
        itl, task = waiting
        if work is None:
            itl.finish(task, Status.GOOD)
        elif before.kind is WorkKind.FORMAT:
            itl.refuse(task, sense.format_command_failed())
        else:
            itl.refuse(task, sense.sanitize_command_failed())


def _ignore(_: object) -> None:
    """Nothing follows."""


class _Patience:
    """How often, and after how long, a device that is away is tried again."""

    def __init__(self) -> None:
        self._tries = 0

    def succeeded(self) -> None:
        """The device has answered."""
        self._tries = 0

    def pause(self, error: DeviceError) -> float | None:
        """Seconds until the next try; None: there is none."""
        self._tries += 1
        if not isinstance(error, _TRANSIENT) or self._tries > MOST_RETRIES:
            return None
        return min(FIRST_RETRY * float(2 ** (self._tries - 1)), LONGEST_RETRY)


class _RunOfDevice:
    """A SANITIZE by the device's own means (`device/sanitize.py`)."""

    def __init__(
        self,
        unit: LogicalUnit,
        work: MediumWork,
        ended: Done,
        set_handed_over: Callable[[bool], None],
        write: Callable[[], None],
    ) -> None:
        """`write`: called instead of `ended` where the device has no such means."""
        self._unit = unit
        self._wanted = _sanitization(work, unit.blocks)
        self._is_begun = work.is_handed_over
        self._ended = ended
        self._set_handed_over = set_handed_over
        self._write = write
        self._patience = _Patience()
        self._stop: Callable[[], None] | None = None
        self.progress = 0
        """Parts of 65,536; the last one only at the end."""

    def go_on(self) -> None:
        """Ask the device: to begin, or how far it is."""
        device = self._unit.bare_device
        self._stop = device.sanitize(self._wanted, self, resume=self._is_begun)
        if self._stop is None:
            self._write()

    def stop(self) -> None:
        """Ask no more; `ended` is not called. The device goes on."""
        if self._stop is not None:
            self._stop()

    # What the device says (`SanitizeWatcher`).

    def taken_over(self) -> None:
        self._is_begun = True
        self._patience.succeeded()
        self._set_handed_over(True)

    def progressed(self, parts: int) -> None:
        self._patience.succeeded()
        self.progress = min(parts, WHOLE - 1)

    def ended(self, error: DeviceError | None) -> None:
        if isinstance(error, Unsupported):
            name = self._unit.identity.name
            log.info("the device does not sanitize itself", unit=name, why=str(error))
            self._write()
            return
        pause = None if error is None else self._patience.pause(error)
        if pause is None:
            self._ended(error)
        else:
            self._stop = asyncio.get_running_loop().call_later(pause, self.go_on).cancel


def _sanitization(work: MediumWork, blocks: int) -> Sanitization:
    overwrite = None
    if work.kind is WorkKind.OVERWRITE:
        overwrite = Overwrite(work.pattern, work.count, work.invert)
    return Sanitization(overwrite, work.is_restricted, blocks)


class _Step(NamedTuple):
    """One pass over the medium."""

    send: Callable[[BlockDevice, int, int, Done], None]
    """(device, LBA, blocks, done)"""
    chunk: int
    """Blocks of one request."""


class _Run:
    """Passes over the medium, one request at a time, each in a turn of the event loop of its own:
    hosts of other units come in between."""

    def __init__(self, unit: LogicalUnit, work: MediumWork, ended: Done) -> None:
        self._unit = unit
        self._ended = ended
        self._blocks = unit.blocks
        self._steps = list(_steps(unit.bare_device, work))
        self._passed = 0
        self._position = 0
        self._patience = _Patience()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._is_stopped = False

    @property
    def progress(self) -> int:
        """Parts of 65,536; the last one only at the end."""
        done = self._passed * self._blocks + self._position
        return min(WHOLE * done // (len(self._steps) * self._blocks), WHOLE - 1)

    def stop(self) -> None:
        """Begin no more requests; `ended` is not called."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def go_on(self) -> None:
        """Send the next request."""
        if self._is_stopped:
            return
        if self._passed == len(self._steps):
            self._ended(None)
            return
        step = self._steps[self._passed]
        if self._position < self._blocks:
            count = min(step.chunk, self._blocks - self._position)
            step.send(self._unit.bare_device, self._position, count, self._sent)
        else:
            self._unit.bare_device.flush(self._flushed)

    def _sent(self, error: DeviceError | None) -> None:
        if self._has_failed(error):
            return
        step = self._steps[self._passed]
        self._position = min(self._position + step.chunk, self._blocks)
        self._next()

    def _flushed(self, error: DeviceError | None) -> None:
        if self._has_failed(error):
            return
        self._passed += 1
        self._position = 0
        self._next()

    def _next(self) -> None:
        self._patience.succeeded()
        self._timer = asyncio.get_running_loop().call_soon(self.go_on)

    def _has_failed(self, error: DeviceError | None) -> bool:
        if error is None or self._is_stopped:
            return self._is_stopped
        pause = self._patience.pause(error)
        if pause is None:
            self._ended(error)
        else:
            self._timer = asyncio.get_running_loop().call_later(pause, self.go_on)
        return True


def _steps(device: BlockDevice, work: MediumWork) -> Iterator[_Step]:
    """The passes of a work, each followed by a flush."""
    size = device.block_size
    most = device.capabilities.maximum_blocks or CHUNK // size
    chunk, large = min(CHUNK // size, most), LARGE_CHUNK // size
    overwrite = Overwrite(work.pattern, work.count, work.invert)
    can_unmap = device.capabilities.unmap is not Level.NONE

    def write(block: bytes) -> _Step:
        data = memoryview(block * chunk)
        return _Step(
            lambda device, lba, blocks, done: device.write(lba, data[: blocks * size], done), chunk
        )

    def repeat(block: bytes) -> _Step:
        return _Step(
            lambda device, lba, blocks, done: device.write_same(lba, blocks, block, done), large
        )

    def unmap(device: BlockDevice, lba: int, blocks: int, done: Done) -> None:
        device.unmap(lba, blocks, lambda error: done(_if_supported(error)))

    if work.kind is WorkKind.FORMAT:
        yield repeat(overwrite.block(0, size))
        if can_unmap and not any(work.pattern):
            yield _Step(unmap, large)
    else:
        for number in range(work.count):
            yield write(overwrite.block(number, size))
        if work.kind is WorkKind.BLOCK_ERASE:
            yield _Step(unmap, large)


def _if_supported(error: DeviceError | None) -> DeviceError | None:
    """Of blocks that cannot be unmapped the zeros have to do."""
    return None if isinstance(error, Unsupported) else error
