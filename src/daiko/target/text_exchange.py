"""Text requests in the full feature phase: SendTargets, and little else (RFC 7143, 6.4, 11.10).

An exchange has one initiator task tag. Its requests and its answers may each be split over
several PDUs (C bit); the target's tag links the parts. A new exchange ends an unfinished one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from daiko.iscsi.bhs import RESERVED_TAG
from daiko.iscsi.error import RejectReason, RemoteProtocolError
from daiko.iscsi.negotiation import OFFER, Negotiation, Parameters
from daiko.iscsi.pdu import TextRequest, TextResponse
from daiko.iscsi.session import TaskTags
from daiko.iscsi.text_key import (
    REJECT,
    Sender,
    TextCollector,
    When,
    format_text,
    parse_unique,
    split_text,
)

SendTargets = Callable[[str], "Sequence[tuple[str, str]] | None"]
"""Value of SendTargets -> TargetName and TargetAddress pairs; None: not allowed here."""

_USES = frozenset({When.FULL_FEATURE, When.ALL})


class TextExchange:
    """The target's side of the text exchanges of one connection."""

    __slots__ = (
        "_collector",
        "_outgoing",
        "_parameters",
        "_send_targets",
        "_tag",
        "_tags",
        "_task",
    )

    def __init__(self, parameters: Parameters, send_targets: SendTargets) -> None:
        self._parameters = parameters
        self._send_targets = send_targets
        self._collector = TextCollector()
        self._outgoing: list[bytes] = []
        self._tags = TaskTags()
        self._task = RESERVED_TAG
        # Initiator task tag of the exchange in progress.
        self._tag = RESERVED_TAG
        # The tag the initiator has to give back in its next request.

    def receive(self, request: TextRequest) -> TextResponse:
        """The answer, without its numbers. Raises RemoteProtocolError with a reject reason."""
        if request.initiator_task_tag == RESERVED_TAG:
            raise _refused("a text request has no task tag")
        if request.target_transfer_tag == RESERVED_TAG:
            self._collector = TextCollector()
            self._outgoing = []
            self._task = request.initiator_task_tag
        elif (request.initiator_task_tag, request.target_transfer_tag) != (self._task, self._tag):
            raise _refused("a text request goes on with an exchange that is not")
        if request.final and request.continued:
            raise _refused("F and C are both set")
        if self._outgoing:
            if request.data:
                raise _refused("the rest of our text is due, not the initiator's")
            return self._next_piece(request)
        text = self._collector.add(request.data, request.continued)
        if text is None:
            return self._response(request, b"", final=False, continued=False)
        pairs = self._answer(parse_unique(text))
        self._outgoing = list(split_text(format_text(pairs), self._parameters.send_limit))
        return self._next_piece(request)

    def _answer(self, keys: dict[str, str]) -> list[tuple[str, str]]:
        answers: list[tuple[str, str]] = []
        value = keys.pop("SendTargets", None)
        if value is not None:
            records = self._send_targets(value)
            answers += [("SendTargets", REJECT)] if records is None else records
        # MaxRecvDataSegmentLength may be declared again at any time (13.12).
        negotiation = Negotiation(Sender.TARGET, OFFER, is_discovery=self._parameters.is_discovery)
        answers += negotiation.take(keys, _USES)
        limit = negotiation.declared.get("MaxRecvDataSegmentLength")
        if isinstance(limit, int):
            self._parameters.send_limit = limit
        return answers

    def _next_piece(self, request: TextRequest) -> TextResponse:
        piece = self._outgoing.pop(0)
        if self._outgoing:
            return self._response(request, piece, final=False, continued=True)
        return self._response(request, piece, final=request.final, continued=False)

    def _response(
        self, request: TextRequest, data: bytes, *, final: bool, continued: bool
    ) -> TextResponse:
        if final:
            self._tag = self._task = RESERVED_TAG
        else:
            self._tag = self._tags.take(())
        return TextResponse(
            final=final,
            continued=continued,
            lun=request.lun if not final else 0,
            initiator_task_tag=request.initiator_task_tag,
            target_transfer_tag=self._tag,
            data=data,
        )


def _refused(message: str) -> RemoteProtocolError:
    return RemoteProtocolError(message, reject=RejectReason.PROTOCOL_ERROR)
