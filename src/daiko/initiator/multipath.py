"""One target behind one or several portals: keeps a session to it, and commands safe over a loss.

Theory of operation. There is at most one session at a time. When it is lost, the portals are tried
in turn until there is another (`rounds.py`).
Commands submitted meanwhile wait, and commands that were in flight wait with them if they may be
sent again; both for `settings.grace` seconds from the loss on. Then they complete with
`Unreachable`, and so does whatever is submitted until a session is up again, at once: a host that
is told soon can turn to another path.

**Which commands are sent again.** A command says so itself (`Command.replay`): reads, and changes
whose second execution leaves the same blocks as the first (WRITE, WRITE SAME, UNMAP). The danger is
not the second execution but a late first one: the target might still be working on the lost
session's write when the retried one, and a newer write to the same block after it, are done.
That cannot happen inside one target portal group: the new login carries the same initiator name and
ISID, so it *reinstates* the session, and the target has ended the old one's tasks before it answers
(RFC 7143, 6.3.5). A portal of another portal group makes another I_T nexus and ends nothing; so a
command that changes data and was in flight in one group is not sent again in another, it completes
with `Unreachable`. Commands are sent again in the order of their CmdSN. COMPARE AND WRITE and the
copy commands never are (executed twice they give another answer).

**Answers that mean "again".** UNIT ATTENTION: sent again at once, the owner is told. BUSY and TASK
SET FULL: after a pause that doubles; TASK SET FULL also lowers the queue depth. ABORTED COMMAND,
TASK ABORTED, a failure of the target port and a reset that this session caused: again if the
command may be. Each with a limit on the attempts; the last answer then counts.

**Better paths.** The watcher learns from the logical units how good the path is (ALUA) and tells
by `prefer_better`; `path_choice.py` decides whether another portal is worth a try. The session is
moved kindly: new commands wait, those in flight end, then it logs out and in elsewhere. NOT READY
because the target port is in standby, unavailable or in transition means that the command was not
carried out: it is sent again after a while, by then perhaps through another portal.

**A new session is looked at first.** The watcher is told of it and calls `release` once it has seen
that the logical units are the ones it knows; until then only its own (`urgent`) commands go out. So
no write meant for one LU reaches another that took its place while the connection was down.

`generation` grows with every I_T nexus that ends (session lost, or reset as a unit attention
tells): aliases and list identifiers at the target are gone then (SPC-4, 5.17).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Protocol

import structlog

from daiko.device.error import Aborted, DeviceError, Unreachable
from daiko.initiator.command import Command, Failure
from daiko.initiator.discovery import new_isid
from daiko.initiator.login import LoggedIn
from daiko.initiator.login_check import check_login
from daiko.initiator.path_choice import PathChoice, Worth
from daiko.initiator.portal import Portal
from daiko.initiator.rounds import Rounds
from daiko.initiator.session import Session
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.chap import Account
from daiko.iscsi.error import RemoteProtocolError
from daiko.port.connection import Connection
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.sense import SenseKey, parse_sense

log = structlog.get_logger(__name__)

_RESET_ASC: Final = 0x29
"""ASC of the unit attentions for power on, reset and I_T nexus loss."""

NOT_ACCESSIBLE: Final = frozenset({(0x04, 0x0A), (0x04, 0x0B), (0x04, 0x0C)})
"""ASC and ASCQ of NOT READY because of the target port's asymmetric access state."""

_NOT_WHILE_REPLAYING: Final = frozenset(
    {Opcode.EXTENDED_COPY, Opcode.RECEIVE_COPY_RESULTS, Opcode.MAINTENANCE_OUT}
)
"""Commands that rest on aliases or list identifiers: after a reset their meaning may have changed,
so the unit attention goes to who sent them."""


NONE_WITHDRAWN: Final[Mapping[int, str]] = MappingProxyType({})


class NexusWatcher(Protocol):
    """Who wants to know what happens to the I_T nexus."""

    def nexus_started(self) -> None:
        """A session is up. Only `urgent` commands go to it until `release`."""

    def nexus_lost(self, reason: str) -> None:
        """The session is gone."""

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        """The logical unit (8-byte field) reported one; the command is sent again."""

    def not_accessible(self, lun: int) -> None:
        """The logical unit (8-byte field) cannot be used through this target port now."""


class Multipath:
    """A target by its name and portals. `open` first, `close` at the end."""

    def __init__(
        self,
        target_name: str,
        portals: Sequence[Portal],
        initiator_name: str,
        watcher: NexusWatcher,
        *,
        settings: InitiatorSettings | None = None,
        isid: bytes | None = None,
        account: Account | None = None,
    ) -> None:
        if not portals:
            raise ValueError(f"no portal is given for {target_name}")
        self.target_name = target_name
        self.portals = tuple(portals)
        self.initiator_name = initiator_name
        self.settings = settings or InitiatorSettings()
        self.isid = isid or new_isid()
        self.account = account
        """By which the next login proves itself (CHAP); may be exchanged at any time."""
        self.session: Session | None = None
        self.portal: Portal | None = None
        """Of the session; None while there is none."""
        self.generation = 0
        self.last_error = ""
        self.last_refusal: RemoteProtocolError | None = None
        """What was wrong with the last login, where no portal was merely silent; None = that is
        not so, or there is a session."""
        self._watcher = watcher
        self._waiting: list[Command] = []
        self._pausing: set[Command] = set()
        self._is_open = False
        self._grace_timer: asyncio.TimerHandle | None = None
        self._is_past_grace = False
        self.choice = PathChoice(self.portals)
        self._rounds = Rounds(self)
        self._moving: asyncio.TimerHandle | None = None
        self._is_held = False

    @property
    def is_connected(self) -> bool:
        """Whether commands go out at once."""
        return self.session is not None and not self._is_held

    # --- open and close

    async def open(self) -> None:
        """Try each portal once. Raises Unreachable with what each of them said; may then be
        called again. After a success a lost session is replaced without being asked."""
        if self._is_open:
            return
        self._is_open = True
        try:
            await self._rounds.once()
        except BaseException:
            self._is_open = False
            raise

    async def close(self) -> None:
        """Log out. Commands that are not answered complete with `Aborted`."""
        self._is_open = False
        await self._rounds.stop()
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None
        session = self.session
        if session is not None:
            for command in session.withdraw_queued():
                self._end(command, Aborted(f"{self.target_name} is being closed"))
            await session.upkeep.log_out()
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None
        self._give_up(Aborted(f"{self.target_name} is closed"))

    # --- commands

    def submit(self, command: Command) -> None:
        """Send `command` in the session, or as soon as there is one that was released."""
        session = self.session
        if session is not None and (not self._is_held or command.urgent):
            session.submit(command)
        elif not self._is_open:
            command.end(Aborted(f"{self.target_name} is not open"), 0, b"", b"")
        elif self._is_past_grace or command.urgent:
            command.end(Unreachable(self._words()), 0, b"", b"")
        else:
            self._waiting.append(command)

    def completed(self, command: Command, status: int, sense: bytes) -> None:
        """SessionOwner: the target answered with another status than GOOD."""
        if self._is_tried_again(command, status, sense):
            return
        if status > 0xFF:
            self._end(command, _failure(status, self.target_name, command))
        else:
            command.end(None, status, command.data_in, sense)

    def _is_tried_again(self, command: Command, status: int, sense: bytes) -> bool:
        """Whether the command goes out once more instead of ending with this answer."""
        if status in (Status.BUSY, Status.TASK_SET_FULL):
            return self._pause(command, status)
        if status == Status.CHECK_CONDITION:
            try:
                said = parse_sense(sense)
            except MalformedData:
                return False  # whoever sent the command sees that there is no sense to read
            if said.key == SenseKey.UNIT_ATTENTION:
                if said.asc == _RESET_ASC:
                    self.generation += 1
                self._watcher.unit_attention(command.lun, said.asc, said.ascq)
                again = not (said.asc == _RESET_ASC and command.cdb[0] in _NOT_WHILE_REPLAYING)
            elif said.key == SenseKey.NOT_READY and (said.asc, said.ascq) in NOT_ACCESSIBLE:
                self._watcher.not_accessible(command.lun)
                return not command.urgent and self._pause(command, status)
            else:
                again = said.key == SenseKey.ABORTED_COMMAND and command.replay
        elif status in (Status.TASK_ABORTED, Failure.TARGET_FAILURE, Failure.RESET):
            again = command.replay
        else:
            again = False
        if not again or command.attempts >= self.settings.attempts or not self._is_open:
            return False
        self.submit(command)
        return True

    def reported(self, lun: int, asc: int, ascq: int) -> None:
        """SessionOwner: a unit attention that came without a command."""
        if asc == _RESET_ASC:
            self.generation += 1
        self._watcher.unit_attention(lun, asc, ascq)

    def use_settings(self, settings: InitiatorSettings) -> None:
        """Other time limits, from now on."""
        self.settings = settings
        if self.session is not None:
            self.session.upkeep.settings = settings

    def _pause(self, command: Command, status: int) -> bool:
        """Send the command again after a while."""
        settings = self.settings
        loop = asyncio.get_running_loop()
        if not self._is_open or loop.time() - command.begun > settings.busy_patience:
            return False
        if status == Status.TASK_SET_FULL and self.session is not None:
            self.session.limit_depth()
        pause = min(settings.busy_first * 2 ** min(command.attempts - 1, 16), settings.busy_longest)
        self._pausing.add(command)
        loop.call_later(pause, self._resume, command)
        return True

    def _resume(self, command: Command) -> None:
        if command in self._pausing:  # else given up meanwhile
            self._pausing.discard(command)
            self.submit(command)

    def _end(self, command: Command, error: DeviceError) -> None:
        command.end(error, 0, b"", b"")

    # --- loss and reconnection

    def lost(self, session: Session, error: str) -> None:
        """SessionOwner: the connection is gone."""
        if session is not self.session:
            return
        tag = session.negotiated.target_portal_group_tag
        in_flight = session.in_flight
        if session.time2wait and self.portal is not None:
            wait = min(session.time2wait, self.settings.grace / 2)
            self._rounds.leave_alone(self.portal, wait)
        self.session = None
        self.portal = None
        self.generation += 1
        self.last_error = error
        self._is_past_grace = False
        loop = asyncio.get_running_loop()
        level = log.warning if self._is_open else log.info
        level("session lost", target=self.target_name, reason=error, in_flight=in_flight)
        dropped: list[Command] = []
        for number, command in enumerate(session.unfinished):
            was_sent = number < in_flight
            if not self._is_open or (was_sent and not self._may_repeat(command)):
                dropped.append(command)
                continue
            command.portal_group_tag = tag if was_sent else 0
            self._waiting.append(command)
        if self._is_open:
            self._grace_timer = loop.call_later(self.settings.grace, self._end_of_grace)
            self._rounds.begin()
        self._watcher.nexus_lost(error)
        failure = Unreachable if self._is_open else Aborted
        for command in dropped:
            self._end(command, failure(self._words()))

    def _may_repeat(self, command: Command) -> bool:
        return command.replay and command.attempts < self.settings.attempts

    def _end_of_grace(self) -> None:
        self._grace_timer = None
        self._is_past_grace = True
        self._give_up(Unreachable(self._words()))

    def _give_up(self, error: DeviceError) -> None:
        waiting = [*self._waiting, *self._pausing]
        self._waiting = []
        self._pausing = set()
        for command in waiting:
            self._end(command, error)

    def _words(self) -> str:
        portals = ", ".join(map(str, self.portals))
        return f"{self.target_name} at {portals}: {self.last_error or 'no session'}"

    async def hurry(self) -> None:
        """While the session is lost, try the portals now, and return when all have been tried or
        there is a session. (A round that has begun already is the one.)"""
        await self._rounds.hurry()

    async def check_account(self, account: Account | None) -> None:
        """Log in by this account under another ISID, beside the session that there is, and leave.
        Raises LoginRefused, RemoteProtocolError; Unreachable where no portal answers."""
        failure = Unreachable("no portal answers")
        for portal in self.portals:
            try:
                await check_login(
                    portal, self.initiator_name, self.target_name, account, self.settings
                )
            except Unreachable as error:
                failure = error
            else:
                return
        raise failure

    def begin(self, portal: Portal, connection: Connection, login: LoggedIn) -> Session:
        """The full feature phase begins: send what waits."""
        session = Session(connection, login, self, self.settings, f"{self.target_name} at {portal}")
        if self._grace_timer is not None:
            self._grace_timer.cancel()
            self._grace_timer = None
        self.session = session
        self.portal = portal
        self.last_error = ""
        self.last_refusal = None
        self._is_past_grace = False
        log.info("session up", target=self.target_name, portal=str(portal))
        self._is_held = True
        self._watcher.nexus_started()
        return session

    # --- better paths

    def states_changed(self) -> None:
        """The target announced other access states: any portal may be the best one now."""
        self.choice.forget()

    def prefer_better(self, here: Worth, elsewhere: Worth) -> None:
        """The session's path is worth `here`, the best one elsewhere `elsewhere`: move the session
        if that may be better."""
        portal = self.portal
        if portal is None or self._moving is not None:
            return
        if self.choice.is_worth_leaving(portal, here, elsewhere):
            log.info("looking for a better path", target=self.target_name, portal=str(portal))
            self._leave()

    def _leave(self) -> None:
        """End the session once nothing is in flight; the next one begins at the best portal that is
        known. A copy command, which may take long, is waited for while others go on."""
        self._moving = None
        session = self.session
        if session is None or not self._is_open:
            return
        loop = asyncio.get_running_loop()
        if any(command.cdb[0] == Opcode.EXTENDED_COPY for command in session.tasks.values()):
            self._moving = loop.call_later(1.0, self._leave)
            return
        self._is_held = True
        if session.in_flight or session.queued:
            self._moving = loop.call_later(0.01, self._leave)
        else:
            session.upkeep.request_logout()

    def give_up_session(self, reason: str) -> None:
        """Drop the session; another one is made as after any loss."""
        if self.session is not None:
            self.session.drop(reason)

    def release(self, withdrawn: Mapping[int, str] = NONE_WITHDRAWN) -> None:
        """Let commands go out in the session that came up; first those that waited for it, but for
        those to logical units (8-byte field -> why) that are not to be used any more."""
        session = self.session
        if session is None or not self._is_held:
            return
        self._is_held = False
        tag = session.negotiated.target_portal_group_tag
        for command in [each for each in self._pausing if each.lun in withdrawn]:
            self._pausing.discard(command)
            self._end(command, Unreachable(f"{self.target_name}: {withdrawn[command.lun]}"))
        waiting, self._waiting = self._waiting, []
        for command in waiting:
            if command.lun in withdrawn:
                self._end(command, Unreachable(f"{self.target_name}: {withdrawn[command.lun]}"))
            elif command.data_out and command.portal_group_tag not in (0, tag):
                words = f"{self.target_name}: lost, and the new path is another portal group"
                self._end(command, Unreachable(words))
            else:
                self.submit(command)


def _failure(status: int, target: str, command: Command) -> DeviceError:
    opcode = f"{command.cdb[0]:02x}h"
    if status == Failure.TIMED_OUT:
        return Unreachable(f"{target}: no answer to {opcode} within {command.timeout:g} s")
    if status == Failure.RESET:
        return Aborted(f"{target}: {opcode} was ended by a reset of the logical unit")
    return Unreachable(f"{target}: could not carry out {opcode} (target failure)")
