"""What a target says of itself in a session: asynchronous messages, texts (RFC 7143, 11.9, 11.10).

| event | what is done |
|---|---|
| SCSI event (0) | the sense data goes to the owner, like that of a command |
| logout requested (1) | nothing new goes out; logout with the last answer, or after Parameter3 s |
| connections dropped (2, 3) | the session is over; this portal is left alone for Time2Wait |
| negotiation requested (4) | a text exchange, in which the target may declare its keys anew |
| tasks terminated (5) | not negotiated (TaskReporting is RFC3720): the session is given up |
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from daiko.device.block import Buffer
from daiko.iscsi.bhs import RESERVED_TAG, AsyncEvent, Opcode
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import Handler
from daiko.iscsi.negotiation import OFFER, Negotiation
from daiko.iscsi.pdu import AsyncMessage, TextRequest, TextResponse, sense_of
from daiko.iscsi.text_key import Sender, TextCollector, When, format_text, parse_unique
from daiko.scsi.layout import MalformedData
from daiko.scsi.sense import SenseKey, parse_sense

if TYPE_CHECKING:
    from daiko.initiator.session import Session

log = structlog.get_logger(__name__)

_USES = frozenset({When.FULL_FEATURE, When.ALL})


class Announcements:
    """Of one session."""

    __slots__ = ("_collector", "_loop", "_offered", "_overdue", "_session", "_tag")

    def __init__(self, session: Session, receive_limit: int) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._offered = {**OFFER, "MaxRecvDataSegmentLength": receive_limit}
        self._collector = TextCollector()
        self._tag = RESERVED_TAG
        # Initiator task tag of the text exchange in progress.
        self._overdue: asyncio.TimerHandle | None = None

    def handlers(self) -> dict[int, Handler]:
        """For the PDUs that are dealt with here."""
        return {
            Opcode.ASYNC_MESSAGE: self._async_message,
            Opcode.TEXT_RESPONSE: self._text_response,
        }

    def uses(self, tag: int) -> bool:
        """Whether a request made here has this initiator task tag."""
        return tag == self._tag

    def ended(self) -> None:
        """The session is over."""
        if self._overdue is not None:
            self._overdue.cancel()

    def _async_message(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        session = self._session
        pdu = AsyncMessage.parse(header, at, data)
        session.acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
        log.info("asynchronous message", target=session.name, code=pdu.event)
        if pdu.event == AsyncEvent.SCSI_EVENT:
            self._scsi_event(pdu)
        elif pdu.event == AsyncEvent.LOGOUT_REQUESTED:
            session.drain()
            if self._overdue is None and not session.is_ended:
                self._overdue = self._loop.call_later(pdu.parameter3, session.upkeep.request_logout)
        elif pdu.event == AsyncEvent.CONNECTION_DROPPED and pdu.parameter1:
            return  # Of another connection, where we have one: its CID is 0.
        elif pdu.event in (AsyncEvent.CONNECTION_DROPPED, AsyncEvent.ALL_CONNECTIONS_DROPPED):
            session.time2wait = pdu.parameter2
            session.drop("the target drops the connection")
        elif pdu.event == AsyncEvent.NEGOTIATION_REQUESTED:
            self._negotiate()
        elif pdu.event == AsyncEvent.ALL_TASKS_TERMINATED:
            session.drop("the target ended all tasks")

    def _scsi_event(self, pdu: AsyncMessage) -> None:
        """Sense data without a command (SAM-2's asynchronous event reporting)."""
        try:
            said = parse_sense(sense_of(pdu.data))
        except MalformedData as error:
            log.warning("asynchronous event not understood", reason=str(error))
            return
        if said.key == SenseKey.UNIT_ATTENTION:
            self._session.owner.reported(pdu.lun, said.asc, said.ascq)

    def _negotiate(self) -> None:
        """Begin a text exchange (11.9.1: this must be done). A second request changes nothing."""
        if self._tag != RESERVED_TAG or self._session.is_ended:
            return
        self._tag = self._session.take_tag()
        self._collector = TextCollector()
        own = ("MaxRecvDataSegmentLength", str(self._offered["MaxRecvDataSegmentLength"]))
        self._send(format_text([own]), RESERVED_TAG)

    def _send(self, text: bytes, transfer_tag: int) -> None:
        # Immediate: it takes no place in the order of commands.
        session = self._session
        session.connection.send(
            TextRequest(
                initiator_task_tag=self._tag,
                target_transfer_tag=transfer_tag,
                cmd_sn=session.cmd_sn,
                exp_stat_sn=session.exp_stat_sn,
                immediate=True,
                data=text,
            ).pack(),
            text,
        )

    def _text_response(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        session = self._session
        pdu = TextResponse.parse(header, at, data)
        session.acknowledge(pdu.stat_sn, pdu.max_cmd_sn)
        if pdu.initiator_task_tag != self._tag or self._tag == RESERVED_TAG:
            raise RemoteProtocolError("a text response to no request")
        text = self._collector.add(data, pdu.continued)
        if text is None:
            self._send(b"", pdu.target_transfer_tag)
            return
        negotiation = Negotiation(Sender.INITIATOR, self._offered)
        answers = negotiation.take(parse_unique(text), _USES)
        limit = negotiation.declared.get("MaxRecvDataSegmentLength")
        if isinstance(limit, int):
            session.use_send_limit(limit)
        if not pdu.final:
            self._send(format_text(answers), pdu.target_transfer_tag)
        else:
            self._tag = RESERVED_TAG
