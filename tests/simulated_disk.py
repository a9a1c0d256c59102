"""A file on a disk that keeps, at a power cut, what it was asked to keep, and of the rest whatever
it likes; and threads whose work is done when a test says so."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from itertools import product
from math import prod

from daiko.backend.worker import Finished, Work

PAGE = 4096


class PowerCut(BaseException):
    """The machine stops here."""


def nothing() -> None:
    pass


class SimulatedDisk:
    """A `RawFile`. Of each page it has every version written since the last sync, the stable one
    first: a power cut leaves any one of them, or the last one torn."""

    def __init__(self) -> None:
        self.is_new = True
        self.is_removed = False
        self.is_closed = False
        self._pages: dict[int, list[bytes]] = {}
        self._length = [0]
        self.calls_left: int | None = None
        """Writes and syncs until the power is cut."""
        self.before_sync = nothing
        self.during_sync = nothing
        """What happens before a sync begins, and while it is under way."""
        self.broken: set[str] = set()
        """Calls that fail from now on: "read", "write", "sync", "allocate"."""
        self.syncs = 0

    # --- as the bitmap sees it

    def size(self) -> int:
        return self._length[-1]

    def read(self, offset: int, length: int) -> bytes:
        self._call("read", counts=False)
        length = max(0, min(length, self.size() - offset))
        first, end = offset // PAGE, -(-(offset + length) // PAGE)
        data = b"".join(self._pages.get(page, [bytes(PAGE)])[-1] for page in range(first, end))
        return data[offset - first * PAGE :][:length]

    def write(self, offset: int, data: bytes) -> None:
        self._call("write")
        assert offset % PAGE == len(data) % PAGE == 0, "a page is written whole"
        assert offset + len(data) <= self.size(), "no write needs room that is not there"
        for at in range(0, len(data), PAGE):
            versions = self._pages.setdefault((offset + at) // PAGE, [bytes(PAGE)])
            versions.append(data[at : at + PAGE])

    def allocate(self, length: int) -> None:
        self._call("allocate")
        self._length.append(length)

    def sync(self) -> None:
        self.before_sync()
        self._call("sync")
        self.syncs += 1
        asked = [(versions, len(versions) - 1) for versions in self._all()]
        self.during_sync()
        for versions, last in asked:
            del versions[:last]

    def close(self) -> None:
        self.is_closed = True

    def remove(self) -> None:
        self.is_removed = True

    # --- as a test sees it

    def opened(self) -> SimulatedDisk:
        """The file is opened once more."""
        self.is_new = self.is_closed = False
        self.calls_left = None
        return self

    def left_behind(self) -> SimulatedDisk:
        """The file as a process that ends now leaves it; what that still does does not reach it."""
        disk = SimulatedDisk()
        disk._pages = {page: list(versions) for page, versions in self._pages.items()}
        disk._length = list(self._length)
        disk.is_removed = self.is_removed
        return disk.opened()

    def cut_power(self, choose: Callable[[int], int]) -> None:
        """Keep one version of each page: `choose` is given how many there are."""
        for versions in self._pages.values():
            different = _different(versions)
            versions[:] = [different[choose(len(different))]]
        self._length = [self._length[choose(len(self._length))]]
        self.opened()

    def after_a_power_cut(self, most: int = 64) -> Iterator[SimulatedDisk]:
        """What a power cut now may leave: each combination of versions of the pages; where that
        would be more than `most`, of the oldest, the newest, and that torn."""
        pages = {page: _different(versions) for page, versions in self._pages.items()}
        if prod(len(versions) for versions in pages.values()) > most:
            pages = {
                page: _different([versions[0], versions[-1]])
                for page, versions in self._pages.items()
            }
        for combination in product(*pages.values()):
            disk = SimulatedDisk()
            disk.is_new = False
            disk._pages = {page: [data] for page, data in zip(pages, combination, strict=True)}
            disk._length = self._length[-1:]
            yield disk

    def forget_page(self, page: int) -> None:
        """What was written to the page since the last sync is gone."""
        del self._pages[page][1:]

    def damage(self, page: int, data: bytes) -> None:
        """Something else than what was written stands in this page."""
        self._pages[page] = [data.ljust(PAGE, b"\0")]

    def page(self, page: int) -> bytes:
        return self._pages[page][-1]

    def cut_short(self, length: int) -> None:
        self._length = [length]
        for page in [page for page in self._pages if page >= length // PAGE]:
            del self._pages[page]

    def _all(self) -> list[list[bytes]]:
        return [self._length, *self._pages.values()]  # type: ignore[list-item]

    def _call(self, name: str, *, counts: bool = True) -> None:
        if name in self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "simulated")
        if counts and self.calls_left is not None:
            if not self.calls_left:
                raise PowerCut
            self.calls_left -= 1


TEARS = (44, PAGE // 2)
"""Bytes after which the last write of a page may have been torn."""


def _different(versions: list[bytes]) -> list[bytes]:
    """Each version of a page once, and what is left where the last write of it was torn."""
    torn = [versions[-1][:tear] + versions[0][tear:] for tear in TEARS]
    return list(dict.fromkeys([*versions, *torn]))


class HandThreads:
    """`Workers` whose one thread works when told to, and whose outcomes reach the event loop when
    told to."""

    def __init__(self) -> None:
        self._todo: deque[tuple[Work, Finished]] = deque()
        self._done: deque[Callable[[], object]] = deque()
        self.at_once = False
        """Work is done and told at once."""

    def run(self, work: Work, finished: Finished) -> None:
        self._todo.append((work, finished))
        if self.at_once:
            self.settle()

    def stop(self, then: Callable[[], None]) -> None:
        then()

    def end(self) -> None:
        """The process has ended: nothing is done or told any more."""
        self._todo.clear()
        self._done.clear()
        self.at_once = False

    @property
    def has_work(self) -> bool:
        return bool(self._todo)

    @property
    def has_news(self) -> bool:
        return bool(self._done)

    def work(self) -> None:
        """The thread does the next piece."""
        work, finished = self._todo.popleft()
        result = work()
        self._done.append(lambda: finished(result))

    def tell(self) -> None:
        """The loop is told of the oldest piece done."""
        self._done.popleft()()

    def settle(self) -> None:
        """Until there is nothing to do or to tell."""
        while self._todo or self._done:
            if self._todo:
                self.work()
            else:
                self.tell()
