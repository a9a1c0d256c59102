"""One SCSI command at the port: its data out and in, its status (RFC 7143, 4.2.5, 11.4, 11.7).

The hot path is `complete` with GOOD and one buffer that is exactly what the initiator expects:
one Data-In PDU that carries the status (phase collapse), without an object or a copy. Whatever is
rare (residuals, several PDUs, sense) is in functions of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from daiko.device.block import Buffer
from daiko.iscsi.bhs import (
    DATA_IN,
    FINAL,
    OVERFLOW,
    R2T,
    RESERVED_TAG,
    SCSI_RESPONSE,
    STATUS,
    UNDERFLOW,
    Opcode,
)
from daiko.iscsi.data_transfer import DataOutTransfer, data_in_pieces, residual
from daiko.iscsi.event import DataOutEvent
from daiko.scsi import sense as condition
from daiko.scsi.opcode import Status
from daiko.scsi.sense import Sense
from daiko.target.task import Task, TaskAttribute

if TYPE_CHECKING:
    from daiko.target.session import TargetSession

_GOOD: Final = int(Status.GOOD)
_DATA_IN: Final = int(Opcode.DATA_IN)
_SCSI_RESPONSE: Final = int(Opcode.SCSI_RESPONSE)
_R2T: Final = int(Opcode.R2T)
_LAST_WITH_STATUS: Final = FINAL | STATUS

# The two answers of the data path, with all that is always 0 in them left out.
_pack_whole_answer: Final[Callable[..., bytes]] = struct.Struct(">HxxI8xIIIII12x").pack
"""opcode and flags, length, ITT, TTT, StatSN, ExpCmdSN, MaxCmdSN of a Data-In."""
_WHOLE_ANSWER_FLAGS: Final = _DATA_IN << 8 | _LAST_WITH_STATUS
_pack_good_response: Final[Callable[..., bytes]] = struct.Struct(">H14xI4xIIII8x").pack
"""opcode and flags, ITT, StatSN, ExpCmdSN, MaxCmdSN, ExpDataSN of a SCSI Response."""
_GOOD_RESPONSE_FLAGS: Final = _SCSI_RESPONSE << 8 | FINAL

_JOINED: Final = 8192
"""Bytes of data-in in several buffers up to which joining them is cheaper than a PDU for each."""
_COLLAPSIBLE: Final = frozenset({Status.GOOD, Status.CONDITION_MET})

ATTRIBUTES: Final = tuple(
    TaskAttribute(code) if code <= TaskAttribute.ACA else TaskAttribute.SIMPLE for code in range(8)
)
"""By the ATTR field; reserved codes are taken as SIMPLE."""


class PortTask(Task):
    """A SCSI Command PDU from its arrival to its status."""

    __slots__ = (
        "_data",
        "_failure",
        "_session",
        "_then",
        "_transfer",
        "_wanted",
        "is_immediate",
    )

    _session: TargetSession
    _data: Buffer
    is_immediate: bool
    _wanted: int
    """Bytes of data-out that were fetched."""
    _transfer: DataOutTransfer | None
    _then: Callable[[Buffer], None] | None
    _failure: Sense | None

    @property
    def received(self) -> int:
        """Bytes of the data asked for that have come."""
        return 0 if self._transfer is None else self._transfer.received

    @property
    def kept(self) -> int:
        """Bytes that came with the command, or may come unasked, before it is taken up."""
        transfer = self._transfer
        return len(self._data) if transfer is None else len(self._data) + transfer.capacity

    # --- data out

    def data_at_once(self, length: int) -> Buffer | None:
        data = self._data
        if len(data) == length == self.expected_out and self._transfer is None:
            self._wanted = length
            return data
        return None

    def fetch(self, length: int, then: Callable[[Buffer], None]) -> None:
        self._wanted = length
        expected = self.expected_out
        take = length if length < expected else expected
        transfer = self._transfer
        if transfer is None:
            data = self._data
            if len(data) == take:
                then(data)
                return
            if len(data) > take:
                then(memoryview(data)[:take])
                return
            parameters = self._session.parameters
            transfer = self._transfer = DataOutTransfer(expected, data, False, parameters)
        if transfer.want(take):
            then(transfer.data)
            return
        self._then = then
        self.fetching = True
        self._solicit(transfer)

    def expect_unsolicited(self) -> None:
        """The F bit of the command was 0: Data-Out PDUs follow unasked."""
        self._transfer = DataOutTransfer(
            self.expected_out, self._data, True, self._session.parameters
        )

    def place(self, tag: int, offset: int, length: int) -> memoryview | None:
        """Where the data of a Data-Out PDU belongs."""
        return None if self._transfer is None else self._transfer.place(tag, offset, length)

    def receive(
        self, tag: int, data_sn: int, offset: int, data: Buffer, final: bool, damaged: bool
    ) -> bool:
        """A Data-Out PDU of this command; `damaged`: its data digest is wrong. False: it names
        no sequence that was asked for."""
        transfer = self._transfer
        if transfer is None:
            if tag != RESERVED_TAG:
                return False
            self.fail(condition.unexpected_unsolicited_data())
            return True
        event = transfer.receive(tag, data_sn, offset, data, final)
        if self._failure is None:
            # 7.8 (b), 7.9: the command ends once the sequences that were asked for are through.
            if damaged:
                self._failure = condition.protocol_service_crc_error()
            elif transfer.is_broken:
                self._failure = condition.data_phase_error()
        if event is DataOutEvent.NO_SEQUENCE:
            return False
        if event is DataOutEvent.UNEXPECTED_UNSOLICITED:
            self.fail(condition.unexpected_unsolicited_data())
        elif event is DataOutEvent.NOT_ENOUGH:
            self.fail(condition.not_enough_unsolicited_data())
        elif event is not DataOutEvent.MORE:
            self._sequence_ended(transfer)
        return True

    def _sequence_ended(self, transfer: DataOutTransfer) -> None:
        if self._failure is not None:
            if not transfer.is_receiving:
                self.fail(self._failure)
        elif self.aborted:
            return
        elif transfer.is_complete:
            then, self._then = self._then, None
            self.fetching = False
            if then is not None:
                then(transfer.data)
        else:
            self._solicit(transfer)

    def _solicit(self, transfer: DataOutTransfer) -> None:
        session = self._session
        for wanted in transfer.solicit(session.transfer_tags.take):
            # An R2T carries the next StatSN but does not advance it (11.8.4).
            session.connection.send(
                R2T.pack(
                    _R2T, FINAL, 0, 0, self.lun, self.tag, wanted.tag, session.stat_sn,
                    session.window.exp_cmd_sn, session.window.max_cmd_sn, transfer.r2t_sn,
                    wanted.offset, wanted.end - wanted.offset,
                )
            )  # fmt: skip

    def fail(self, failure: Sense) -> None:
        """The port itself ends the command: the unit is made to let go of it first."""
        self._failure = failure
        self._session.abort_for_port(self)

    # --- data in and status

    def complete(self, status: int, data: Sequence[Buffer] = (), sense: bytes = b"") -> None:
        session = self._session
        if not session.retire(self):
            return
        failure = self._failure
        if failure is not None:
            self._respond(Status.CHECK_CONDITION, failure.fixed(), 0)
            return
        if self.aborted:
            return
        window = session.window
        if status == _GOOD and not sense:
            if len(data) == 1 and not self.expected_out:
                size = len(data[0])
                if 0 < size == self.expected_in and size <= session.collapse_limit:
                    stat_sn = session.stat_sn
                    session.stat_sn = stat_sn + 1 & 0xFFFFFFFF
                    session.connection.send(
                        _pack_whole_answer(
                            _WHOLE_ANSWER_FLAGS, size, self.tag, RESERVED_TAG,
                            stat_sn, window.exp_cmd_sn, window.max_cmd_sn,
                        ),
                        data[0],
                    )  # fmt: skip
                    return
            elif not data and self._wanted == self.expected_out and not self.expected_in:
                stat_sn = session.stat_sn
                session.stat_sn = stat_sn + 1 & 0xFFFFFFFF
                transfer = self._transfer
                session.connection.send(
                    _pack_good_response(
                        _GOOD_RESPONSE_FLAGS, self.tag, stat_sn,
                        window.exp_cmd_sn, window.max_cmd_sn,
                        0 if transfer is None else transfer.r2t_sn,
                    )
                )  # fmt: skip
                return
        self._answer(status, data, sense)

    def _answer(self, status: int, data: Sequence[Buffer], sense: bytes) -> None:
        """Any answer: data-in in as many PDUs as it takes, then the status."""
        actual = sum(map(len, data))
        if not actual:
            self._respond(status, sense, 0)
            return
        if len(data) > 1 and actual <= _JOINED:
            data = (b"".join(data),)
        length = min(actual, self.expected_in)
        collapses = status in _COLLAPSIBLE and not sense and not self.expected_out
        session = self._session
        window = session.window
        send = session.connection.send
        data_sn = 0
        for offset, piece, ends in data_in_pieces(
            data, length, session.parameters.send_limit, session.parameters.max_burst_length
        ):
            flags = FINAL if ends else 0
            stat_sn = short = byte3 = 0
            if collapses and offset + len(piece) == length:
                residual_flag, short = residual(self.expected_in, actual)
                flags |= STATUS | residual_flag
                byte3 = status
                stat_sn = session.take_stat_sn()
            send(
                DATA_IN.pack(
                    _DATA_IN, flags, 0, byte3, len(piece), 0, self.tag, RESERVED_TAG, stat_sn,
                    window.exp_cmd_sn, window.max_cmd_sn, data_sn, offset, short,
                ),
                piece,
            )  # fmt: skip
            data_sn += 1
        if not collapses or not length:
            self._respond(status, sense, actual, data_sn)

    def _respond(self, status: int, sense: bytes, data_in: int, data_sn: int = 0) -> None:
        """A SCSI Response PDU with residuals. `data_in`: bytes the unit had to give."""
        session = self._session
        flags = count = read_count = 0
        if self.expected_out:
            flags, count = residual(self.expected_out, self._wanted)
            if self.expected_in:
                read_flags, read_count = residual(self.expected_in, data_in)
                # The bits of the read half of a bidirectional command stand 2 places higher.
                flags |= (read_flags & (OVERFLOW | UNDERFLOW)) << 2
        else:
            # Of a command that announced no data out, what the unit wanted is overflow as well.
            flags, count = residual(self.expected_in, data_in + self._wanted)
        transfer = self._transfer
        if transfer is not None:
            data_sn += transfer.r2t_sn
        payload = len(sense).to_bytes(2, "big") + sense if sense else b""
        session.connection.send(
            SCSI_RESPONSE.pack(
                _SCSI_RESPONSE, FINAL | flags, 0, status, len(payload), 0, self.tag, 0,
                session.take_stat_sn(), session.window.exp_cmd_sn, session.window.max_cmd_sn,
                data_sn, read_count, count,
            ),
            payload,
        )  # fmt: skip


def port_task(
    session: TargetSession,
    tag: int,
    lun: int,
    cdb: bytes,
    attribute: TaskAttribute,
    expected_out: int,
    expected_in: int,
    data: Buffer,
    is_immediate: bool,
) -> PortTask:
    """A task for a command that has arrived; `data` came with it. A function, since calling a
    class with an `__init__` costs twice as much as all that is done here."""
    task = PortTask()
    task._session = session
    task.nexus = session.nexus
    task.tag = tag
    task.lun = lun
    task.cdb = cdb
    task.attribute = attribute
    task.expected_out = expected_out
    task.expected_in = expected_in
    task._data = data
    task.is_immediate = is_immediate
    task.aborted = False
    task.fetching = False
    task._wanted = 0
    task._transfer = None
    task._then = None
    task._failure = None
    return task
