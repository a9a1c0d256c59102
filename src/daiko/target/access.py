"""Access: which host sees which logical units, and the way of each command to its unit.

LUN masking by initiator name: what a host is not given does not exist for it. `publish` replaces
the whole table at once; hosts in session keep the units that they still have, with their tasks
and unit attentions, lose the others and are told (REPORTED LUNS DATA HAS CHANGED).

A command finds its unit by one look-up in `Nexus.units`, which is laid out by the LUN field as it
arrives. Only what has no unit is looked at more closely (SPC-4, 6.6.2; SAM-5, 4.7): INQUIRY,
REPORT LUNS and REQUEST SENSE are answered by the target itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from daiko.iscsi.bhs import TaskManagementFunction, TaskManagementResponseCode
from daiko.scsi.report import lun_number
from daiko.target.commands.absent import LARGEST_LUN, answer_for_absent, lun_fields
from daiko.target.event import Event
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import ItlNexus, Nexus
from daiko.target.task import Task

FEW: Final = 256
"""Units of a host up to which each has its I_T_L nexus from the log-in on. A host that sees more
of them than it will soon use would cost a kilobyte for each, in each session; there an I_T_L nexus
is made with the first command, which meets a POWER ON as it would have otherwise."""

ANY_INITIATOR: Final = "*"
"""Stands for every initiator that no other entry names."""

Hosts = Mapping[str, Mapping[int, LogicalUnit]]
"""Initiator name, or `*` -> LUN -> unit."""


_Answer = Callable[[int], None]
_Function = TaskManagementFunction
_Response = TaskManagementResponseCode

_OF_WHOLE_TARGET: Final = (
    _Function.TARGET_WARM_RESET,
    _Function.TARGET_COLD_RESET,
    _Function.I_T_NEXUS_RESET,
)


class Access:
    """The target's table of hosts, and the hosts in session."""

    __slots__ = ("_hosts", "_nexuses", "_tags")

    def __init__(self) -> None:
        self._hosts: dict[str, dict[int, LogicalUnit]] = {}
        self._nexuses: dict[Nexus, None] = {}
        self._tags: dict[str, frozenset[int]] = {}

    # ------------------------------------------------------------------ who sees what

    def publish(self, hosts: Hosts, tags: Mapping[str, Iterable[int]] | None = None) -> None:
        """Replace the table; `tags` limits initiators to portal groups. Raises ValueError for a LUN
        outside 0 to 16383."""
        table: dict[str, dict[int, LogicalUnit]] = {}
        for name, luns in hosts.items():
            for lun in luns:
                if not 0 <= lun <= LARGEST_LUN:
                    raise ValueError(f"{lun} is not a LUN: 0 to {LARGEST_LUN} can be used")
            known = self._hosts.get(name.lower())
            table[name.lower()] = known if known == luns else dict(luns)
        self._hosts = table
        self._tags = {name.lower(): frozenset(of) for name, of in (tags or {}).items()}
        for nexus in list(self._nexuses):
            self._show(nexus, self._view(nexus.initiator_name), is_new=False)

    def authorize(self, initiator_name: str, target_name: str) -> bool:
        """May this initiator log in? It may when the table names it; there is one target, whose
        name the portal has checked."""
        return self._key(initiator_name) in self._hosts

    def portal_group_tags(self, initiator_name: str) -> frozenset[int]:
        """The portal groups that this initiator may use; empty = all."""
        return self._tags.get(self._key(initiator_name), frozenset())

    def sessions(self) -> tuple[Nexus, ...]:
        """The I_T nexuses that are there, in the order of their log-ins."""
        return tuple(self._nexuses)

    def _key(self, initiator_name: str) -> str:
        """iSCSI names are equal whatever their case (RFC 7143, 4.2.7.1)."""
        name = initiator_name.lower()
        return name if name in self._hosts else ANY_INITIATOR

    def _view(self, initiator_name: str) -> dict[int, LogicalUnit]:
        return self._hosts.get(self._key(initiator_name), {})

    def _show(self, nexus: Nexus, view: Mapping[int, LogicalUnit], *, is_new: bool) -> None:
        """Make `nexus.units` show `view`."""
        if nexus.view is view:
            return
        nexus.view = view
        before = {itl.lun: itl for itl in nexus.units.values()}
        kept = {lun: itl for lun, itl in before.items() if view.get(lun) is itl.unit}
        nexus.units = {field: itl for lun, itl in kept.items() for field in lun_fields(lun)}
        if len(view) <= FEW:
            for lun in sorted(view.keys() - kept.keys()):
                kept[lun] = _attach(nexus, lun)
        for lun, itl in before.items():
            if lun not in kept or kept[lun] is not itl:
                itl.unit.detach(itl, is_session_lost=False)
        if not is_new:
            for itl in kept.values():
                itl.attentions.establish(Event.REPORTED_LUNS_CHANGED.sense)

    # ------------------------------------------------------------------ sessions

    def nexus_started(self, nexus: Nexus) -> None:
        """A session has reached its full feature phase."""
        self._nexuses[nexus] = None
        self._show(nexus, self._view(nexus.initiator_name), is_new=True)

    def nexus_lost(self, nexus: Nexus) -> None:
        """The session is gone, by logout or by loss: tasks that have not begun never begin, what
        is at the devices ends there unseen. Harmless for a nexus that is not there."""
        if self._nexuses.pop(nexus, self) is self:
            return
        units = {itl.lun: itl for itl in nexus.units.values()}
        nexus.units = {}
        nexus.view = {}
        managers = []
        for itl in units.values():
            itl.unit.detach(itl, is_session_lost=True)
            manager = itl.unit.third_party_copy
            if manager is not None and manager not in managers:
                managers.append(manager)
        for manager in managers:
            manager.nexus_lost(nexus)

    # ------------------------------------------------------------------ commands

    def submit(self, task: Task) -> None:
        """Carry out a command; it ends with `task.complete`, now or later."""
        itl = task.nexus.units.get(task.lun) or _find_unit(task.nexus, task.lun)
        if itl is None:
            answer_for_absent(task, reported_luns(task.nexus))
        else:
            itl.unit.execute(itl, task)

    def task_management(
        self, nexus: Nexus, function: int, lun: int, referenced_tag: int, done: _Answer
    ) -> None:
        """Carry out a task management function (SAM-5, 7; RFC 7143, 11.5). `lun` is the LUN field
        as it arrived. `done` is called once, with a response code, when no task that the function
        ended can change anything any more. After TARGET COLD RESET the port ends the sessions."""
        try:
            asked = TaskManagementFunction(function)
        except ValueError:
            done(_Response.FUNCTION_NOT_SUPPORTED)
            return
        if asked in _OF_WHOLE_TARGET:
            self._reset_all(nexus, asked, done)
            return
        if asked is _Function.TASK_REASSIGN:
            done(_Response.REASSIGN_NOT_SUPPORTED)
            return
        itl = nexus.units.get(lun) or _find_unit(nexus, lun)
        if itl is None:
            done(_Response.LUN_DOES_NOT_EXIST)
            return
        _AT_UNIT[asked](itl, referenced_tag, done)

    def _reset_all(self, nexus: Nexus, function: int, done: _Answer) -> None:
        """A reset touches the units that this host sees, and no others: a host that could end
        the work of others on units that it may not even know of would pass the masking."""
        units = list(dict.fromkeys(nexus.view.values()))
        left = len(units) + 1

        def one_done() -> None:
            nonlocal left
            left -= 1
            if not left:
                done(_Response.FUNCTION_COMPLETE)

        for unit in units:
            if function == _Function.I_T_NEXUS_RESET:
                mine = [itl for itl in unit.nexuses if itl.nexus is nexus]
                victims = [(itl, task) for itl in mine for task in itl.tasks]
                for itl in mine:
                    unit.reservations.detached(itl)
                    itl.attentions.establish(Event.NEXUS_LOSS.sense)
                unit.task_set.abort(victims, one_done, nexus)
            else:
                unit.reset(one_done, nexus, Event.TARGET_RESET)
        one_done()


def reported_luns(nexus: Nexus) -> list[int]:
    """The LUNs of the units that a host sees, in ascending order."""
    return sorted(nexus.view)


def _attach(nexus: Nexus, lun: int) -> ItlNexus:
    unit = nexus.view[lun]
    itl = ItlNexus(nexus, lun, unit)
    for field in lun_fields(lun):
        nexus.units[field] = itl
    unit.attach(itl)
    return itl


def _find_unit(nexus: Nexus, field: int) -> ItlNexus | None:
    """What a LUN field that is not in `nexus.units` means; with the first command of a host to one
    of its very many units the I_T_L nexus comes to be."""
    lun = lun_number(field)
    if lun is None or lun not in nexus.view or field not in lun_fields(lun):
        return None
    return _attach(nexus, lun)


def _complete(done: _Answer) -> Callable[[], None]:
    return lambda: done(_Response.FUNCTION_COMPLETE)


def _find(itl: ItlNexus, tag: int) -> Task | None:
    return next((task for task in itl.tasks if task.tag == tag), None)


def _abort_task(itl: ItlNexus, tag: int, done: _Answer) -> None:
    task = _find(itl, tag)
    if task is None:
        done(_Response.TASK_DOES_NOT_EXIST)
        return
    itl.unit.task_set.abort([(itl, task)], _complete(done), itl.nexus)


def _abort_task_set(itl: ItlNexus, tag: int, done: _Answer) -> None:
    victims = [(itl, task) for task in itl.tasks]
    itl.unit.task_set.abort(victims, _complete(done), itl.nexus)


def _clear_task_set(itl: ItlNexus, tag: int, done: _Answer) -> None:
    itl.unit.task_set.abort(itl.unit.task_set.tasks(), _complete(done), itl.nexus)


def _reset_unit(itl: ItlNexus, tag: int, done: _Answer) -> None:
    itl.unit.reset(_complete(done), itl.nexus)


def _query_task(itl: ItlNexus, tag: int, done: _Answer) -> None:
    is_there = _find(itl, tag) is not None
    done(_Response.FUNCTION_SUCCEEDED if is_there else _Response.FUNCTION_COMPLETE)


def _query_task_set(itl: ItlNexus, tag: int, done: _Answer) -> None:
    done(_Response.FUNCTION_SUCCEEDED if itl.tasks else _Response.FUNCTION_COMPLETE)


def _query_event(itl: ItlNexus, tag: int, done: _Answer) -> None:
    done(_Response.FUNCTION_SUCCEEDED if itl.attentions else _Response.FUNCTION_COMPLETE)


def _clear_aca(itl: ItlNexus, tag: int, done: _Answer) -> None:
    """There is never an ACA condition to clear (NormACA is 0)."""
    done(_Response.FUNCTION_COMPLETE)


_AT_UNIT: dict[TaskManagementFunction, Callable[[ItlNexus, int, _Answer], None]] = {
    _Function.ABORT_TASK: _abort_task,
    _Function.ABORT_TASK_SET: _abort_task_set,
    _Function.CLEAR_ACA: _clear_aca,
    _Function.CLEAR_TASK_SET: _clear_task_set,
    _Function.LOGICAL_UNIT_RESET: _reset_unit,
    _Function.QUERY_TASK: _query_task,
    _Function.QUERY_TASK_SET: _query_task_set,
    _Function.QUERY_ASYNCHRONOUS_EVENT: _query_event,
}
