"""A device that fails on demand: how tests, and an administrator who drills a failure, break one.

Rules are looked at in the order in which they were added; the first that fits a request answers
it with its error, and the device below never sees the request. `after` lets that many fitting
requests through first; `times` (None = for ever) is how many then fail.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import DeviceError
from daiko.device.layer.layer import Layer


class Operation(Enum):
    """What a rule applies to."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"
    UNMAP = "unmap"
    WRITE_SAME = "write same"
    COMPARE_AND_WRITE = "compare and write"
    OR_WRITE = "or write"
    WRITE_ATOMIC = "write atomic"


class _Rule:
    __slots__ = ("after", "end", "error", "operations", "start", "times")

    def __init__(
        self,
        operations: frozenset[Operation],
        error: Callable[[], DeviceError],
        start: int,
        end: int,
        after: int,
        times: int | None,
    ) -> None:
        self.operations = operations
        self.error = error
        self.start = start
        self.end = end
        self.after = after
        self.times = times


class Fault(Layer):
    """Fails what `fail` says; passes on the rest."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self._rules: list[_Rule] = []

    def fail(
        self,
        *operations: Operation,
        error: Callable[[], DeviceError],
        lba: int = 0,
        blocks: int | None = None,
        after: int = 0,
        times: int | None = None,
    ) -> None:
        """Fail `operations` (none named: all) that touch `blocks` blocks from `lba` on (None: to
        the end) with what `error()` makes. A FLUSH touches the whole device."""
        end = self.blocks if blocks is None else lba + blocks
        kinds = frozenset(operations or Operation)
        self._rules.append(_Rule(kinds, error, lba, end, after, times))

    def heal(self) -> None:
        """Forget all rules."""
        self._rules.clear()

    def _fault(self, operation: Operation, lba: int, blocks: int) -> DeviceError | None:
        for rule in self._rules:
            if operation not in rule.operations or rule.times == 0:
                continue
            if lba >= rule.end or rule.start >= lba + blocks:
                continue
            if rule.after:
                rule.after -= 1
                continue
            if rule.times is not None:
                rule.times -= 1
            return rule.error()
        return None

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if (error := self._fault(Operation.READ, lba, blocks)) is not None:
            done(error, b"")
        else:
            self.below.read(lba, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        if (error := self._fault(Operation.WRITE, lba, len(data) // self.block_size)) is not None:
            done(error)
        else:
            self.below.write(lba, data, done, fua)

    def flush(self, done: Done) -> None:
        if (error := self._fault(Operation.FLUSH, 0, self.blocks)) is not None:
            done(error)
        else:
            self.below.flush(done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        if (error := self._fault(Operation.UNMAP, lba, blocks)) is not None:
            done(error)
        else:
            self.below.unmap(lba, blocks, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        if (error := self._fault(Operation.WRITE_SAME, lba, blocks)) is not None:
            done(error)
        else:
            self.below.write_same(lba, blocks, pattern, done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        if (error := self._fault(Operation.COMPARE_AND_WRITE, lba, blocks)) is not None:
            done(error)
        else:
            self.below.compare_and_write(lba, compare, data, done)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        if (error := self._fault(Operation.OR_WRITE, lba, blocks)) is not None:
            done(error)
        else:
            self.below.or_write(lba, data, done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        blocks = len(data) // self.block_size
        if (error := self._fault(Operation.WRITE_ATOMIC, lba, blocks)) is not None:
            done(error)
        else:
            self.below.write_atomic(lba, data, done)
