"""The intent logs of volumes, in a folder of the store (`backend/intent_log.py`).

A controller whose store does not outlive its process has none: nobody would undo after a crash
what an atomic write had begun, so none is offered.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from daiko.backend.intent_log import IntentLog
from daiko.control.error import Unavailable
from daiko.state.record import VolumeRecord
from daiko.target import atomic_write
from daiko.target.logical_unit import LogicalUnit

FOLDER = "intents"
"""In the store's folder."""
SUFFIX = ".undo"


class Intents:
    """The logs of all volumes of a store. `folder` None: there are none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._left = set() if folder is None else {path.name for path in folder.glob(f"*{SUFFIX}")}
        """Files that were there at the start: a crash may have left something in them."""

    def opener(self, volume: VolumeRecord) -> Callable[[], IntentLog] | None:
        """What opens the log of a volume when it is first needed."""
        if self._folder is None:
            return None
        return partial(IntentLog, self._folder / _name(volume), volume.block_size)

    def take_up(self, volume: VolumeRecord, unit: LogicalUnit) -> None:
        """Before hosts reach a unit: undo what a crash came into. Raises Unavailable."""
        if _name(volume) not in self._left:
            return
        writes = atomic_write.of(unit)
        assert writes is not None, "there is a folder, so there is a log"
        try:
            writes.take_up()
        except OSError as error:
            raise Unavailable(
                f"the intent log of {volume.name} cannot be read: {error}",
                f"see to the file {_name(volume)} in {self._folder}",
            ) from error

    def close(self, unit: LogicalUnit) -> None:
        """The unit is not published any more."""
        if unit.atomic_writes is not None:
            unit.atomic_writes.close()

    def forget(self, volume: VolumeRecord) -> None:
        """The volume is gone."""
        if self._folder is not None:
            self._left.discard(_name(volume))
            (self._folder / _name(volume)).unlink(missing_ok=True)


def _name(volume: VolumeRecord) -> str:
    return f"{volume.naa}{SUFFIX}"
