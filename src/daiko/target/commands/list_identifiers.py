"""List identifiers: what a host can ask about its copies (SPC-4, 6.4.3.2 and 5.17.4).

They are unique for each I_T nexus, whichever logical unit got the command. While a copy runs its
identifier cannot be used again; when it has ended its result is kept until it was fetched, until
the identifier is used again, or until the nexus is lost. A nexus has at most 256 results, each of
a few hundred bytes, so none has to be dropped for want of memory.
"""

from __future__ import annotations

from daiko.copy_manager.running_job import RunningJob
from daiko.scsi import sense
from daiko.scsi.copy_results import (
    NO_FAILURE_DETAILS,
    CopyState,
    CopyStatus,
    FailureDetails,
)
from daiko.scsi.opcode import Status
from daiko.scsi.sense import CheckCondition
from daiko.target.nexus import Nexus

NexusIdentity = tuple[str, bytes, str, int]


class CopyResult:
    """One copy of a host, running or ended."""

    __slots__ = ("bytes_moved", "job", "segments_processed", "sense", "status")

    def __init__(self) -> None:
        self.job: RunningJob | None = None
        self.status: int | None = None
        """SCSI status of the EXTENDED COPY; None while it runs."""
        self.sense = b""
        self.segments_processed = 0
        self.bytes_moved = 0

    @property
    def is_running(self) -> bool:
        return self.status is None

    def end(self, status: int, sense_data: bytes, segments_processed: int) -> None:
        """The EXTENDED COPY was answered; `segments_processed` of its segments are done."""
        self.bytes_moved = self._moved()
        self.status = status
        self.sense = sense_data
        self.segments_processed = segments_processed
        self.job = None

    def status_data(self) -> CopyStatus:
        """What RECEIVE COPY STATUS says now."""
        if self.is_running:
            return CopyStatus.of_bytes(CopyState.IN_PROGRESS, self._processed(), self._moved())
        good = self.status == Status.GOOD
        state = CopyState.COMPLETED if good else CopyState.COMPLETED_WITH_ERRORS
        return CopyStatus.of_bytes(state, self.segments_processed, self.bytes_moved)

    def _moved(self) -> int:
        if self.job is None:
            return self.bytes_moved
        return sum(work.copied_blocks * work.block_size for work in self.job.works)

    def _processed(self) -> int:
        """Segments before the first that is not copied yet."""
        if self.job is None:
            return 0
        return min((work.step.segment for work in self.job.works if not work.is_copied), default=0)


class ListIdentifiers:
    """The copies of all nexuses that can be asked about."""

    def __init__(self) -> None:
        self._results: dict[NexusIdentity, dict[int, CopyResult]] = {}

    def begin(self, nexus: Nexus, list_id: int) -> CopyResult:
        """Take an identifier for a new copy; a result kept under it is gone. Raises
        CheckCondition, OPERATION IN PROGRESS, while a copy with it runs."""
        results = self._results.setdefault(nexus.identity, {})
        kept = results.get(list_id)
        if kept is not None and kept.is_running:
            raise CheckCondition(sense.operation_in_progress(0))
        result = results[list_id] = CopyResult()
        return result

    def withdraw(self, nexus: Nexus, list_id: int, result: CopyResult) -> None:
        """The copy was refused before it began: there is nothing to ask about."""
        results = self._results.get(nexus.identity, {})
        if results.get(list_id) is result:
            del results[list_id]

    def copy_status(self, nexus: Nexus, list_id: int, length: int) -> bytes:
        """Parameter data of RECEIVE COPY STATUS, cut to `length` bytes. The result of a copy that
        ended well is dropped when all of it was fetched; one that failed stays for its details.
        Raises CheckCondition for an unknown identifier."""
        result = self._find(nexus, list_id)
        data = result.status_data().pack()
        if result.status == Status.GOOD and length >= len(data):
            del self._results[nexus.identity][list_id]
        return data[:length]

    def failure_details(self, nexus: Nexus, list_id: int, length: int) -> bytes:
        """Parameter data of RECEIVE COPY FAILURE DETAILS, cut to `length` bytes. Fetched whole,
        or with length 0, the result is dropped. Raises CheckCondition for an unknown
        identifier."""
        result = self._find(nexus, list_id)
        if result.status is None:
            return NO_FAILURE_DETAILS[:length]
        data = NO_FAILURE_DETAILS
        if result.status != Status.GOOD:
            data = FailureDetails(result.status, result.sense).pack()
        if length >= len(data) or length == 0:
            del self._results[nexus.identity][list_id]
        return data[:length]

    def forget(self, nexus: Nexus) -> None:
        """The nexus was lost: what it could have asked about is gone."""
        self._results.pop(nexus.identity, None)

    def _find(self, nexus: Nexus, list_id: int) -> CopyResult:
        result = self._results.get(nexus.identity, {}).get(list_id)
        if result is None:
            raise CheckCondition(sense.invalid_field_in_cdb(2))
        return result
