"""A second controller: an iSCSI target that owns logical units, and the commands sent to it.

It joins three things: the sessions to it (`initiator/multipath.py`), the logical units behind them
as block devices (`remote_lu.py`), and single commands that are no reads or writes (`execute`), such
as EXTENDED COPY.

Whenever a session comes up anew, the logical units in use are looked at (`unit_looks.py`) before
any other command goes out. Unit attentions that announce changes (capacity, INQUIRY data, LUNs)
lead to the same look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from daiko.backend.lu_facts import LuFacts, as_before, read_facts, report_luns
from daiko.backend.path_judge import PathJudge
from daiko.backend.refusal import device_error
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.unit_looks import UnitLooks
from daiko.device.block import Buffer
from daiko.device.error import DeviceError, Refused
from daiko.initiator.command import AskedCommand, Command, CommandDone
from daiko.initiator.multipath import Multipath
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.chap import Account
from daiko.iscsi.error import RemoteProtocolError
from daiko.scsi.block_data import Capacity
from daiko.scsi.layout import MalformedData
from daiko.scsi.opcode import Opcode
from daiko.scsi.report import lun_field, lun_number

log = structlog.get_logger(__name__)

_SENT_AGAIN: Final = frozenset(
    {
        Opcode.TEST_UNIT_READY, Opcode.REQUEST_SENSE, Opcode.INQUIRY, Opcode.REPORT_LUNS,
        Opcode.MODE_SENSE_6, Opcode.MODE_SENSE_10, Opcode.READ_CAPACITY_10,
        Opcode.SERVICE_ACTION_IN_16, Opcode.MAINTENANCE_IN, Opcode.PERSISTENT_RESERVE_IN,
        Opcode.READ_6, Opcode.READ_10, Opcode.READ_12, Opcode.READ_16,
        Opcode.WRITE_6, Opcode.WRITE_10, Opcode.WRITE_12, Opcode.WRITE_16,
        Opcode.WRITE_AND_VERIFY_10, Opcode.WRITE_AND_VERIFY_12, Opcode.WRITE_AND_VERIFY_16,
        Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16,
        Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16,
        Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16, Opcode.UNMAP, Opcode.SITE_IN,
    }
)  # fmt: skip
"""Commands that give the same outcome when they are carried out twice in a row."""

_CAPACITY_CHANGED: Final = (0x2A, 0x09)
_ACCESS_STATE_CHANGED: Final = (0x2A, 0x06)
_INQUIRY_CHANGED: Final = (0x3F, 0x03)
_LUNS_CHANGED: Final = (0x3F, 0x0E)
_RESET_ASC: Final = 0x29


class Outcome(NamedTuple):
    """How a second controller answered a command."""

    status: int
    data: Buffer
    sense: bytes
    """Sense data without length field; b"" where there is none."""


class NexusInfo(NamedTuple):
    """The session as it is now."""

    initiator_name: str
    isid: bytes
    target_name: str
    portal: Portal
    portal_group_tag: int
    in_flight: int
    header_digest: bool
    data_digest: bool


class SecondController:
    """A target of this name behind these portals (HOST:PORT). `open` before use."""

    def __init__(
        self,
        name: str,
        iqn: str,
        portals: Sequence[str],
        initiator_name: str,
        *,
        settings: InitiatorSettings | None = None,
        isid: bytes | None = None,
        account: Account | None = None,
    ) -> None:
        """`account`: as whom to log in by CHAP. Raises ValueError where a portal is none, or none
        is given."""
        self.name = name
        self.iqn = iqn
        self.settings = settings or InitiatorSettings()
        self.command_timeout = self.settings.command_timeout
        self.units: dict[int, LuFacts] = {}
        """The logical units as they were last looked at, by LUN; disks and others."""
        self.sizes: Mapping[int, Capacity] = {}
        """How large units were before this controller was opened for the first time, by LUN."""
        self.on_lu_changed: Callable[[SecondController, int, str], None] | None = None
        """Called with the LUN and a reason when a unit in use was withdrawn, and with "" when its
        size or abilities changed, or it came back."""
        self.on_reset: Callable[[SecondController, int], None] | None = None
        """Called with the LUN of a unit in use that reported a reset, a power cycle or the loss of
        the nexus (29h): what was written since the last flush may be gone with its cache. When a
        session came up anew, this is before any other command goes out."""
        self.on_session: Callable[[str], None] | None = None
        """Called with "" when a session came up anew and its units were looked at, and with the
        reason when one was lost."""
        self._paths = Multipath(
            iqn,
            [Portal.parse(portal) for portal in portals],
            initiator_name,
            self,
            settings=self.settings,
            isid=isid,
            account=account,
        )
        self._devices: dict[int, RemoteLu] = {}
        self._is_ready = False
        self._judges = PathJudge(name, self, self._paths, self._units_in_use)
        self._looks = UnitLooks(self, self._paths, self._devices, self._judge)

    # --- open and close

    async def open(self) -> None:
        """Connect, and look at all logical units. Does nothing while it is open.

        Raises DeviceError: Unreachable where no portal answers, what the controller said where
        it does not give its logical units. May then be called again."""
        if self._is_ready:
            return
        await self._paths.open()
        failure: BaseException | None = None
        try:
            await self.refresh()
        except BaseException as error:  # noqa: BLE001 - raised below, once it is closed
            failure = error
        if failure is not None:
            await self.close()
            raise failure
        self._is_ready = True
        self._paths.release()
        self._judge()

    async def close(self) -> None:
        """Log out. Commands in flight complete with `Aborted`."""
        self._is_ready = False
        await self._looks.stop()
        await self._judges.stop()
        self._looks.forget()
        await self._paths.close()

    @property
    def is_connected(self) -> bool:
        """Whether a command would go out now."""
        return self._is_ready and self._paths.is_connected

    async def check_account(self, account: Account | None) -> None:
        """See whether the controller admits us by this account, in a session that ends at once;
        the one that carries commands is left alone. Raises LoginRefused, RemoteProtocolError, and
        Unreachable where no portal answers."""
        await self._paths.check_account(account)

    def use_settings(self, settings: InitiatorSettings) -> None:
        """Other time limits, for commands sent from now on."""
        self.settings = settings
        self.command_timeout = settings.command_timeout
        self._paths.use_settings(settings)

    async def hurry(self) -> None:
        """While the session is lost, try to log in now, and return when that was tried."""
        await self._paths.hurry()

    def use_account(self, account: Account | None) -> None:
        """From the next login on."""
        self._paths.account = account

    @property
    def last_error(self) -> str:
        """Why there is no session; "" while there is one."""
        return self._paths.last_error

    @property
    def last_refusal(self) -> RemoteProtocolError | None:
        """What was wrong with the last login, where no portal was merely silent."""
        return self._paths.last_refusal

    @property
    def generation(self) -> int:
        """Grows whenever an I_T nexus with this controller ended: its aliases and list
        identifiers are gone, and with them the proof that unflushed writes are kept."""
        return self._paths.generation

    @property
    def nexus(self) -> NexusInfo | None:
        """The session; None while there is none."""
        session, portal = self._paths.session, self._paths.portal
        if session is None or portal is None:
            return None
        return NexusInfo(
            self._paths.initiator_name,
            self._paths.isid,
            self.iqn,
            portal,
            session.negotiated.target_portal_group_tag,
            session.in_flight,
            session.negotiated.header_digest,
            session.negotiated.data_digest,
        )

    # --- commands

    def send(self, command: Command) -> None:
        """The way of a device's commands."""
        self._paths.submit(command)

    def submit(
        self,
        lun: int,
        cdb: bytes,
        done: CommandDone,
        data_out: Buffer = b"",
        read_length: int = 0,
        timeout: float | None = None,
    ) -> None:
        """Send one command; `done` is called once with the answer, or an error without one.
        `timeout` in seconds; `data_out` must not change until then."""
        self._paths.submit(self._command(lun, cdb, done, data_out, read_length, timeout))

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        data_out: Buffer = b"",
        read_length: int = 0,
        timeout: float | None = None,
    ) -> Outcome:
        """Send one command and wait for its status, whatever it is.

        Raises DeviceError where there is none: Unreachable, Aborted."""
        return await self._execute(lun, cdb, data_out, read_length, timeout, urgent=False)

    async def ask(self, lun: int, cdb: bytes, length: int, *, optional: bool = False) -> Buffer:
        """The data that a command answers with. Raises DeviceError for every status but GOOD;
        with `optional`, Unsupported where the controller has no such command or page.

        Goes out also while other commands wait for the units to be looked at."""
        answer = await self._execute(lun, cdb, b"", length, None, urgent=True)
        what = f"{self.name}/{lun}: command {cdb[0]:02x}h"
        error = device_error(answer.status, answer.sense, what, writing=False, optional=optional)
        if error is not None:
            raise error
        return answer.data

    async def _execute(
        self,
        lun: int,
        cdb: bytes,
        data_out: Buffer,
        read_length: int,
        timeout: float | None,
        *,
        urgent: bool,
    ) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(Outcome(status, data, sense))

        command = self._command(lun, cdb, done, data_out, read_length, timeout)
        command.urgent = urgent
        self._paths.submit(command)
        return await future

    def _command(
        self,
        lun: int,
        cdb: bytes,
        done: CommandDone,
        data_out: Buffer,
        read_length: int,
        timeout: float | None,
    ) -> Command:
        return AskedCommand(
            lun_field(lun),
            cdb,
            done,
            data_out,
            read_length,
            timeout=self.command_timeout if timeout is None else timeout,
            replay=cdb[0] in _SENT_AGAIN,
        )

    # --- logical units

    def device(self, lun: int) -> RemoteLu:
        """The logical unit as a block device: always the same object for a LUN. One that is no
        disk, or was never seen, answers every request with Unreachable."""
        device = self._devices.get(lun)
        if device is None:
            device = self._devices[lun] = RemoteLu(self, f"{self.name}/{lun}", lun)
            facts = self.units.get(lun)
            if facts is not None:
                self._looks.learn(device, facts)
        return device

    async def refresh(self) -> None:
        """Look at all logical units anew and take them as they are now. Raises DeviceError."""
        try:
            numbers = await report_luns(self)
            found = await asyncio.gather(*(read_facts(self, lun) for lun in numbers))
        except MalformedData as error:
            raise Refused(f"{self.name}: {error}", status=0, sense=b"") from error
        self.units = {
            facts.lun: as_before(facts, self.units.get(facts.lun), self.sizes) for facts in found
        }
        for lun, device in self._devices.items():
            if lun in self.units:
                self._looks.learn(device, self.units[lun])
            else:
                device.withdraw("the controller has no such LU any more")

    # --- what happens to the nexus (NexusWatcher)

    def nexus_started(self) -> None:
        if self._is_ready:  # else `open` looks
            self._looks.begin(set(self._devices), release=True)

    def nexus_lost(self, reason: str) -> None:
        self._looks.forget()
        if self.on_session is not None:
            self.on_session(reason)

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        number = lun_number(lun)
        log.info("unit attention", backend=self.name, lun=number, code=f"{asc:02x}/{ascq:02x}")
        if not self._is_ready:
            return
        if (asc, ascq) == _LUNS_CHANGED:
            self._looks.begin(set(self._devices), release=False)
        elif (asc, ascq) in (_CAPACITY_CHANGED, _INQUIRY_CHANGED) and number in self._devices:
            self._looks.begin({number}, release=False)
        elif (asc, ascq) == _ACCESS_STATE_CHANGED:
            self._paths.states_changed()
            self._judge()
        elif asc == _RESET_ASC and number in self._devices:
            self._devices[number].was_reset()
            if self.on_reset is not None:
                self.on_reset(self, number)

    def not_accessible(self, lun: int) -> None:
        if self._is_ready:
            self._judge()

    def _judge(self) -> None:
        """Look in the background whether there is a better path."""
        # While there is a look, who the units are through this portal is found out first.
        if self._looks.task is None:
            self._judges.begin()

    async def check_paths(self) -> None:
        """Look whether there is a better path: the states may have changed unseen, and a portal
        that did not answer may do so now."""
        if self.is_connected:
            self._judge()
            await self._judges.settled()

    def _units_in_use(self) -> dict[int, LuFacts]:
        return {lun: self.units[lun] for lun in self._devices if lun in self.units}
