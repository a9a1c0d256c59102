"""How asking for a copy, or carrying one out, fails."""

from __future__ import annotations

from enum import StrEnum

from daiko.device.error import DeviceError


class CopyRefused(Exception):
    """The copy that was asked for cannot be made at all; nothing was recorded or written.

    `field` names the argument that is at fault ("" where no single one is), `next_step` says what
    the administrator can do about it.
    """

    def __init__(self, message: str, *, next_step: str = "", field: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step
        self.field = field


class NoSuchJob(LookupError):
    """There is no job of this number."""

    def __init__(self, job: int) -> None:
        super().__init__(f"there is no job {job}")


class JobNotRunning(Exception):
    """The job has ended already: there is nothing to cancel, nor to slow down."""


class Side(StrEnum):
    """Where a copy failed."""

    SOURCE = "source"
    DESTINATION = "destination"


class CopyFailed(Exception):
    """A job cannot go on: every executor was tried, or the devices themselves fail.

    What a host is told is made from this: the segment's number, the side, and what the device
    said (forwarded sense, SPC-4 6.4.4 and third-party copy sense data).
    """

    def __init__(
        self,
        message: str,
        *,
        segment: int = 0,
        side: Side | None = None,
        error: DeviceError | None = None,
    ) -> None:
        super().__init__(message)
        self.segment = segment
        self.side = side
        self.error = error
