"""The I_T nexus and the I_T_L nexus (SAM-5, 4.8).

An I_T nexus is one initiator port and one target port in session; an I_T_L nexus adds a logical
unit to them. What SCSI keeps for each initiator hangs on the latter: the tasks in progress and
the unit attention conditions. `Nexus.units` is the host's whole view of the target, laid out for
the data path: one look-up by the LUN field as it arrives leads to everything a command needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from daiko.device.block import Buffer
from daiko.scsi.sense import Sense
from daiko.target.event import Event
from daiko.target.unit_attention import UnitAttentions

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.task import Task


class Nexus:
    """One initiator in one session; unit attentions, list identifiers and aliases hang on it.

    Two nexuses are the same I_T nexus for SCSI when `identity` is equal (RFC 7143, 4.2.7.1:
    initiator name + ISID, target name + portal group tag): a session reinstated by the same
    initiator port continues the nexus.
    """

    __slots__ = (
        "initiator_name",
        "isid",
        "local_address",
        "peer_address",
        "portal_group_tag",
        "target_name",
        "units",
        "view",
    )

    def __init__(
        self,
        initiator_name: str,
        isid: bytes,
        target_name: str,
        portal_group_tag: int = 1,
        *,
        local_address: tuple[str, int] = ("", 0),
        peer_address: tuple[str, int] = ("", 0),
    ) -> None:
        self.initiator_name = initiator_name.lower()
        """In its one form: names are equal whatever their case (RFC 7143, 4.2.7.1)."""
        self.isid = isid
        """6 bytes."""
        self.target_name = target_name
        self.portal_group_tag = portal_group_tag
        self.local_address = local_address
        self.peer_address = peer_address
        self.units: dict[int, ItlNexus] = {}
        """LUN field as it arrives (8 bytes as an integer) -> what is there for this initiator;
        a LUN below 256 stands in it in both of its forms. Kept by `Access`; empty before
        `Access.nexus_started` and after `Access.nexus_lost`. Of a host that sees very many units
        only those that it has sent a command to."""
        self.view: Mapping[int, LogicalUnit] = {}
        """LUN -> unit: all that this initiator sees. Shared by the sessions of a host."""

    @property
    def identity(self) -> tuple[str, bytes, str, int]:
        return (self.initiator_name, self.isid, self.target_name, self.portal_group_tag)


class ItlNexus:
    """One initiator, one target port, one logical unit."""

    __slots__ = ("attentions", "bars", "echo", "is_lost", "lun", "nexus", "tasks", "unit")

    def __init__(self, nexus: Nexus, lun: int, unit: LogicalUnit) -> None:
        self.nexus = nexus
        self.lun = lun
        """The number (0 to 16383), not the LUN field."""
        self.unit = unit
        self.attentions = UnitAttentions()
        self.echo: bytes | None = None
        """The echo buffer (WRITE BUFFER); None: nothing is in it."""
        self.bars = 0
        """The bars that stand for this host (`bar.Bar`), kept by the unit."""
        self.tasks: set[Task] = set()
        """All tasks that have arrived and not been completed, begun or not."""
        self.is_lost = False
        """The session is gone, or the host may not see the unit any more; tasks that were at the
        device may still be ending."""

    def finish(
        self, task: Task, status: int, data: Sequence[Buffer] = (), sense: bytes = b""
    ) -> None:
        """End a task: every task that was submitted ends here, exactly once."""
        self.tasks.remove(task)
        task_set = self.unit.task_set
        if task_set.is_watched:
            task_set.end(self, task, status, data, sense)
        else:
            task.complete(status, data, sense)

    def refuse(self, task: Task, sense: Sense) -> None:
        """End a task with CHECK CONDITION, in the sense data format that the unit is set to."""
        self.finish(task, 0x02, (), self.unit.sense_bytes(sense))

    def report_attention(self, *, by_request_sense: bool = False) -> Sense:
        """The most urgent pending unit attention, which is cleared by that (unless UA_INTLCK_CTRL
        of the control mode page wants it kept until a REQUEST SENSE). Told once that the
        LUNs have changed, a host is not told again by each unit (LUICLR of page 86h)."""
        if self.unit.mode.keeps_attentions and not by_request_sense:
            return self.attentions[0]
        condition = self.attentions.take()
        if condition == Event.REPORTED_LUNS_CHANGED.sense:
            for itl in self.nexus.units.values():
                itl.attentions.clear(Event.REPORTED_LUNS_CHANGED)
        return condition

    def is_ending(self, task: Task) -> bool:
        """Task management wants the task ended: a command of several steps goes no further, and
        finishes with whatever status; the initiator does not see it."""
        return task.aborted or self.unit.task_set.is_ending(task)
