"""The records of the store: all configuration and all state that outlives the process.

Each class is one kind of record, found by its `key`. They are values: to change one, `put` a
changed copy (`record.model_copy(update=…)`). The REST schemas are built on these classes, so a
fact stands in one place. Sizes are in blocks unless a name says bytes; times are seconds since
the epoch.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field

from daiko.command_control.function_table import FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function, Mode
from daiko.scsi.persistent_reservation import ReservationType
from daiko.state.extents import ExtentRecord as ExtentRecord
from daiko.state.extents import Extents

Name = Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")
"""Names that an administrator gives: lower case, digits, `.`, `_`, `-`."""


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]

    @property
    def key(self) -> str:
        """Unique within the kind."""
        raise TypeError(f"{type(self).__name__} gives no key")


class SystemRecord(Record):
    """This controller itself; exactly one."""

    kind: ClassVar[str] = "system"
    iqn: str
    """iSCSI name of the target, and base of the initiator's name."""
    initiator_iqn: str
    """iSCSI name under which this controller logs in to second controllers."""
    mode: Mode = Mode.DELEGATE
    identity: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    """UUID by which other sites know this system, whatever its names; 16 bytes in hex, given once.
    Empty: not given yet."""
    company_id: int = 0x02DA10
    """IEEE company id (24 bits) of the NAA designators that this controller gives."""
    ping_interval: float = Field(default=60.0, ge=1, le=3600)
    """Seconds of silence after which a host is pinged."""
    ping_timeout: float = Field(default=60.0, ge=1, le=3600)
    """Seconds that it may take for its answer; then its session is ended."""
    management_urls: tuple[str, ...] = ()
    """Where administrators reach this controller, as hosts are told (VPD page 85h)."""
    hosts_set_states: bool = True
    """Hosts may set the states of target port groups for a volume (explicit ALUA)."""
    jobs_kept: int = Field(default=1000, ge=1, le=100_000)
    """Ended jobs of administrators whose records are kept; of older ones only backups that can
    be restored are."""

    @property
    def key(self) -> str:
        return "system"


class PortalGroupRecord(Record):
    """A target portal group (RFC 7143, 4.2.1): the portals that lead to one SCSI target port."""

    kind: ClassVar[str] = "portal-group"
    tag: int = Field(ge=1, le=0xFFFF)
    """Target portal group tag, and relative target port identifier of the SCSI target port."""
    portals: tuple[str, ...]
    """HOST:PORT, where hosts reach it; IPv6 in brackets."""
    target_port_group: int = Field(ge=1, le=0xFFFF)
    """The target port group (SPC-4, 5.16.2) that the port is in."""

    @property
    def key(self) -> str:
        return f"{self.tag:05d}"


class GroupState(StrEnum):
    """Asymmetric access state of a target port group (SPC-4, 5.16.2)."""

    ACTIVE_OPTIMIZED = "active-optimized"
    ACTIVE_NON_OPTIMIZED = "active-non-optimized"
    STANDBY = "standby"
    UNAVAILABLE = "unavailable"
    OFFLINE = "offline"
    """No portal of the group listens. Of a whole group only, not of one volume in it."""


class TargetPortGroupRecord(Record):
    """What an administrator says of a target port group; one without a record is
    active/optimized."""

    kind: ClassVar[str] = "target-port-group"
    number: int = Field(ge=1, le=0xFFFF)
    state: GroupState = GroupState.ACTIVE_OPTIMIZED
    preferred: bool = False

    @property
    def key(self) -> str:
        return f"{self.number:05d}"


class VolumeAccess(BaseModel):
    """What holds for one volume in a target port group, in place of what holds for all. None = as
    for all."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    state: GroupState | None = None
    preferred: bool | None = None
    by_host: bool = False
    """A host has set the state (SET TARGET PORT GROUPS)."""


class BackendKind(StrEnum):
    ISCSI = "iscsi"
    """A second controller."""
    INTERNAL = "internal"
    """A file or block device of this controller (port INTERNAL)."""


class DeviceFacts(Record):
    """What a real LU said of itself when it was last probed. Part of a BackendRecord."""

    kind: ClassVar[str] = "device"
    lun: int
    block_size: int
    blocks: int
    peripheral_device_type: int = 0
    vendor: str = ""
    product: str = ""
    revision: str = ""
    serial: str = ""
    designators: tuple[str, ...] = ()
    """Page 83h designators of the LU (association 0), each the hex of its 4-byte header and the
    designator, best first (NAA 6, other NAA, EUI-64, T10 vendor id, others)."""
    third_party_copy: bool = False
    """The 3PC bit of standard INQUIRY."""


class Patience(BaseModel):
    """How long a second controller may take before the next step is made; seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    command: float = Field(default=30.0, ge=1, le=3600)
    """For a command; then ABORT TASK."""
    abort: float = Field(default=15.0, ge=1, le=3600)
    """For the answer to that; then LOGICAL UNIT RESET."""
    reset: float = Field(default=30.0, ge=1, le=3600)
    """For the answer to that; then the connection is dropped."""
    ping_interval: float = Field(default=5.0, ge=1, le=3600)
    """Of silence, after which it is pinged."""
    ping_timeout: float = Field(default=10.0, ge=1, le=3600)
    """For the answer to a ping; then the connection is dropped."""
    reconnect: float = Field(default=30.0, ge=1, le=3600)
    """For a connection that was lost to come back; then the commands that wait for it fail, and a
    pair or a migration goes on without what lies there."""


class BackendRecord(Record):
    """A second controller as attached, or an INTERNAL device."""

    kind: ClassVar[str] = "backend"
    name: str = Name
    type: BackendKind
    iqn: str = ""
    """iSCSI name of its target (ISCSI)."""
    portals: tuple[str, ...] = ()
    """HOST:PORT, tried in this order (ISCSI)."""
    path: str = ""
    """The file or block device (INTERNAL)."""
    block_size: int = 512
    """Of an INTERNAL device."""
    preallocate: bool = False
    """An INTERNAL file has all of its room, and keeps it when blocks are unmapped."""
    patience: Patience = Patience()
    """With a second controller (ISCSI)."""
    devices: tuple[DeviceFacts, ...] = ()
    probed_at: float = 0.0

    @property
    def key(self) -> str:
        return self.name


class FunctionRecord(Record):
    """A cell of the function table. What was set by hand and what was found are kept apart, so
    that taking back the one shows the other again."""

    kind: ClassVar[str] = "function"
    backend: str
    function: Function
    cell: FunctionCell

    @property
    def key(self) -> str:
        return f"{self.backend}:{self.function}:{_origin(self.cell.known)}"


class ReachRecord(Record):
    """A cell of the reachability column."""

    kind: ClassVar[str] = "reach"
    backend: str
    device: str
    """BACKEND/LUN; or BACKEND alone for all of its LUs."""
    cell: ReachCell

    @property
    def key(self) -> str:
        return f"{self.backend}:{self.device}:{_origin(self.cell.known)}"


def _origin(known: Known) -> str:
    return "hand" if known is Known.DECLARED else "found"


class VolumeRecord(Record):
    """A volume: a virtual LU over extents, or a real LU when it is one whole INTERNAL device."""

    kind: ClassVar[str] = "volume"
    name: str = Name
    block_size: int
    extents: Extents
    naa: str
    """16 bytes in hex (NAA 6); given once, kept for ever."""
    image: bool = False
    """An existing LU taken in as it is."""
    mode: Mode | None = None
    """Overrides the system's."""
    created: float = 0.0
    access: dict[int, VolumeAccess] = {}
    """Target port group -> what holds there for this volume in particular."""
    shown_as_real: bool | None = None
    """Shown to hosts as a real LU, or as a virtual one, wherever it has been moved to since; None =
    as it lies."""

    @property
    def key(self) -> str:
        return self.name

    @property
    def blocks(self) -> int:
        return self.extents.table.blocks


class UnitRecord(Record):
    """What hosts told the logical unit of a volume to keep over restarts."""

    kind: ClassVar[str] = "unit"
    naa: str
    """The volume's."""
    mode_pages: tuple[str, ...] | None = None
    """Saved mode pages that differ from their defaults, in hex; None = no host has saved any."""
    identifying_information: str = ""
    """In hex."""
    identifying_text: str = ""
    """UTF-8, in hex."""

    @property
    def key(self) -> str:
        return self.naa


class MediumWorkRecord(Record):
    """A FORMAT UNIT or SANITIZE that is at work on a volume, or has failed."""

    kind: ClassVar[str] = "medium_work"
    naa: str
    """The volume's."""
    work: str
    """format, overwrite, block erase."""
    pattern: str
    """In hex."""
    count: int
    invert: bool
    is_restricted: bool
    has_failed: bool
    is_handed_over: bool = False

    @property
    def key(self) -> str:
        return self.naa


class RegistrationRecord(BaseModel):
    """An I_T nexus that is registered for persistent reservations of a unit."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    initiator: str
    """iSCSI name."""
    isid: str = Field(pattern=r"^[0-9a-f]{12}$")
    """6 bytes in hex."""
    target_port: int
    """Relative target port identifier."""
    key: str = Field(pattern=r"^[0-9a-f]{16}$")
    """Reservation key, 8 bytes in hex."""
    holds: bool = False
    """It is the one holder of the reservation."""


class ReservationRecord(Record):
    """The registrations and the persistent reservation of a volume's unit, where a host told it to
    keep them over restarts (APTPL, SPC-4, 5.13.5)."""

    kind: ClassVar[str] = "reservation"
    naa: str
    """The volume's."""
    type: ReservationType | None = None
    """Of the reservation; None = there is none."""
    registrations: tuple[RegistrationRecord, ...] = ()
    """In the order in which they were made."""

    @property
    def key(self) -> str:
        return self.naa


class HostRecord(Record):
    """A host, and the LUNs it sees."""

    kind: ClassVar[str] = "host"
    name: str = Name
    initiators: tuple[str, ...]
    """iSCSI names; `*` stands for any initiator that no other host names."""
    luns: dict[int, str] = {}
    """LUN -> volume."""
    portal_groups: tuple[int, ...] = ()
    """Tags of the portal groups through which it may log in; empty = all."""
    remote_copy: tuple[str, ...] = ()
    """Portals (HOST:PORT, or `*`) of other machines whose LUs this host may name in a copy by
    alias or address; empty = none."""

    @property
    def key(self) -> str:
        return self.name


class SiteRecord(Record):
    """Another site [0088]: where its first controller is, as whom it logs in here, and what it is
    offered."""

    kind: ClassVar[str] = "site"
    name: str = Name
    iqn: str
    """iSCSI name of its first controller's target."""
    portals: tuple[str, ...]
    """HOST:PORT, tried in this order."""
    initiator: str
    """iSCSI name under which its first controller logs in here."""
    without_chap: bool = False
    """The administrator takes names for proof where no CHAP user is set."""
    offered: dict[int, str] = {}
    """LUN, from 1 on -> volume of this system that the other one may read and write."""
    identity: str = Field(default="", pattern=r"^([0-9a-f]{32})?$")
    """UUID of the other system, as it first said; empty: it has not answered yet."""

    @property
    def key(self) -> str:
        return self.name


class CredentialRecord(Record):
    """CHAP between this controller and one peer. Apart from the record of the peer, so that no view
    and no export of that can show a secret; of itself there is neither.

    `user` is how the initiator proves itself, `mutual_user` how the target does: of a host and of
    discovery the first is the host's, of a back end it is ours. With another site there are two: as
    whom we log in there, and as whom it logs in here."""

    kind: ClassVar[str] = "credential"
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    owner: str
    """`host:NAME`, `backend:NAME`, `site:NAME` (as whom we log in there), `peer:NAME` (as whom it
    logs in here), or `discovery:`."""
    user: str
    secret: str = Field(default="", repr=False)
    """Empty: not set yet, so that nobody gets in by it."""
    mutual_user: str = ""
    """Empty: the target does not prove itself."""
    mutual_secret: str = Field(default="", repr=False)

    @property
    def key(self) -> str:
        return self.owner


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    """Asked for by a host whose command did not outlive this controller's process."""


TERMINAL = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED})


class StepRecord(BaseModel):
    """A step of a job's plan, and what became of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    source: str
    """BACKEND/LUN."""
    source_lba: int
    destination: str
    destination_lba: int
    blocks: int
    """Source blocks."""
    block_size: int
    destination_block_size: int = 0
    """Bytes; 0 = as the source's."""
    segment: int = 0
    """Number (from 0) of the requested range or segment that this step is a part of."""
    executor: str
    """`second controller NAME` or `this controller`."""
    delegated: bool
    reason: str
    rejected: tuple[tuple[str, str], ...] = ()
    """(executor, reason) of each that was not chosen."""
    confirmed: tuple[tuple[int, int], ...] = ()
    """Ranges (first block, blocks), counted from the step's start, known to be done."""
    bytes_through_first_controller: int = 0
    """Payload that this controller itself read or wrote for the step."""
    bytes_in_kernel: int = 0
    """Of these: copied by the kernel of this controller's machine from one of its own devices to
    another, without passing through the controller's memory."""
    bytes_moved: int = 0
    """By the executor."""
    seconds: float = 0.0
    error: str = ""
    """Why the executor dropped the rest, where it did."""

    @property
    def confirmed_blocks(self) -> int:
        return sum(blocks for _, blocks in self.confirmed)


ADMINISTRATOR: Final = "administrator"
"""Who asked for a job, where it was no host, no pair and no migration."""
OF_PAIR: Final = "pair "
"""Begins what a job says that a pair asked for; then comes its name."""
OF_MIGRATION: Final = "migration of "
"""Likewise of a migration; then comes the name of the volume."""


def is_host(asked_by: str) -> bool:
    """Whether it was a host that asked for a job."""
    return asked_by != ADMINISTRATOR and not asked_by.startswith((OF_PAIR, OF_MIGRATION))


class JobRecord(Record):
    """A copy of whatever kind, durable from its request to its report."""

    kind: ClassVar[str] = "job"
    id: int
    type: str
    """backup, restore, copy, pair, migration."""
    asked_by: str
    """`administrator`, `host NAME (IQN)`, `pair NAME`, or `migration of VOLUME`."""
    source: str
    """Volume name, or BACKEND/LUN."""
    destination: str
    request: dict[str, Any]
    """What is needed to plan again: ranges, mode, pace."""
    state: JobState = JobState.QUEUED
    steps: tuple[StepRecord, ...] = ()
    blocks: int = 0
    block_size: int = 512
    changed_blocks: int = 0
    """Source blocks that hosts wrote while the job ran."""
    one_instant: bool = True
    """False once a host wrote to the source while the job ran (or may have, unseen)."""
    error: str = ""
    created: float = 0.0
    started: float = 0.0
    finished: float = 0.0
    overwritten_by: str = ""
    """Of a backup: the job that wrote over it, once that one's own record is gone."""

    @property
    def key(self) -> str:
        return f"{self.id:012d}"

    @property
    def by_host(self) -> bool:
        return is_host(self.asked_by)

    @property
    def confirmed_blocks(self) -> int:
        return sum(step.confirmed_blocks for step in self.steps)
