"""What the initiator makes of asynchronous messages, and how it goes after overdue commands."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from daiko.initiator.multipath import Multipath
from daiko.iscsi.bhs import RESERVED_TAG, AsyncEvent, TaskManagementFunction
from daiko.iscsi.pdu import (
    AsyncMessage,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
)
from daiko.iscsi.text_key import format_text, parse_text
from daiko.scsi.sense import power_on_reset_or_bus_device_reset
from daiko.target.event import Event
from initiator.exchange import QUICK, READ, WRITE, MakePaths, Watcher, send, silence, status, then
from initiator.scripted_target import Link, ScriptedTarget


def received(target: ScriptedTarget, kind: type) -> list[object]:
    return [pdu for link in target.links for pdu in link.received if isinstance(pdu, kind)]


def event(sense: bytes) -> bytes:
    """The data segment of a SCSI event."""
    return len(sense).to_bytes(2, "big") + sense


async def test_scsi_event_is_told_like_a_unit_attention(
    paths: Multipath, target: ScriptedTarget, watcher: Watcher
) -> None:
    generation = paths.generation
    for sense in (Event.CAPACITY_CHANGED.sense, power_on_reset_or_bus_device_reset()):
        target.link.send(AsyncMessage(AsyncEvent.SCSI_EVENT, data=event(sense.fixed())))
    target.link.send(AsyncMessage(AsyncEvent.SCSI_EVENT, data=b"\0\x02zz"))
    target.link.send(AsyncMessage(AsyncEvent.SCSI_EVENT))
    assert (await send(paths, READ))[:2] == (None, 0)
    assert watcher.attentions == [(0x2A, 0x09), (0x29, 0x00)]
    assert paths.generation == generation + 1, "the nexus was reset"
    assert target.logins == 1


async def test_logout_request_ends_the_session_in_time_whatever_is_in_flight(
    paths: Multipath, target: ScriptedTarget, watcher: Watcher
) -> None:
    target.on[ScsiCommand] = then(
        lambda link, command: link.send(AsyncMessage(AsyncEvent.LOGOUT_REQUESTED)), status(0)
    )
    # It is never answered in the first session, and sent again in the next.
    assert (await send(paths, READ))[:2] == (None, 0)
    assert len(received(target, LogoutRequest)) == 1
    assert target.logins == 2
    assert watcher.reasons == ["logged out"]


@pytest.mark.parametrize(
    "code", [AsyncEvent.CONNECTION_DROPPED, AsyncEvent.ALL_CONNECTIONS_DROPPED]
)
async def test_portal_that_drops_a_connection_is_left_alone_for_time2wait(
    make: MakePaths, target: ScriptedTarget, code: int
) -> None:
    paths = make(replace(QUICK, grace=0.4))
    await paths.open()
    target.on[ScsiCommand] = then(
        lambda link, command: link.send(AsyncMessage(code, parameter2=3600)), status(0)
    )
    begun = asyncio.get_running_loop().time()
    assert (await send(paths, READ))[:2] == (None, 0)
    # As long as it asks for, but not so long that commands would be given up meanwhile.
    assert asyncio.get_running_loop().time() - begun >= 0.2
    assert target.logins == 2


async def test_drop_of_another_connection_is_none_of_ours(
    paths: Multipath, target: ScriptedTarget
) -> None:
    target.link.send(AsyncMessage(AsyncEvent.CONNECTION_DROPPED, parameter1=7))
    assert (await send(paths, READ))[:2] == (None, 0)
    assert target.logins == 1


async def test_negotiation_request_is_followed_by_a_text_exchange(
    paths: Multipath, target: ScriptedTarget
) -> None:
    """The target declares a smaller segment, in two parts, and asks something nobody knows."""
    text = format_text([("MaxRecvDataSegmentLength", "512"), ("X-example.odd", "1")])
    parts = [text[:20], text[20:]]
    asked: list[dict[str, str]] = []

    def exchange(link: Link, pdu: TextRequest) -> None:
        asked.append(dict(parse_text(pdu.data)))
        piece = parts.pop(0) if parts else b""
        link.send(
            TextResponse(
                final=len(asked) == 3,
                continued=bool(parts) and bool(piece),
                initiator_task_tag=pdu.initiator_task_tag,
                target_transfer_tag=RESERVED_TAG if len(asked) == 3 else len(asked),
                data=piece,
            )
        )

    target.on[TextRequest] = exchange
    target.link.send(AsyncMessage(AsyncEvent.NEGOTIATION_REQUESTED, parameter3=5))
    target.link.send(AsyncMessage(AsyncEvent.NEGOTIATION_REQUESTED, parameter3=5))
    await target.until(lambda: len(asked) == 3)
    assert asked == [
        {"MaxRecvDataSegmentLength": "262144"}, {}, {"X-example.odd": "NotUnderstood"},
    ]  # fmt: skip
    assert (await send(paths, WRITE, b"w" * 2048))[:2] == (None, 0)
    assert len(target.commands()[0].data) == 512, "the new length holds"
    assert target.logins == 1


async def test_text_that_was_not_asked_for_ends_the_connection(
    paths: Multipath, target: ScriptedTarget, watcher: Watcher
) -> None:
    target.on[ScsiCommand] = then(
        lambda link, command: link.send(TextResponse(initiator_task_tag=5)), status(0)
    )
    assert (await send(paths, READ))[:2] == (None, 0)
    assert "text response" in watcher.reasons[0]


async def test_one_reset_serves_all_overdue_commands_of_a_unit(
    make: MakePaths, target: ScriptedTarget
) -> None:
    paths = make(replace(QUICK, reset_timeout=30.0))
    await paths.open()
    functions: list[int] = []

    def answer(link: Link, pdu: TaskManagementRequest) -> None:
        functions.append(pdu.function)
        if pdu.function == TaskManagementFunction.ABORT_TASK:
            return  # the unit hangs
        if functions.count(TaskManagementFunction.ABORT_TASK) == 3:
            asyncio.get_running_loop().call_later(
                0.2, link.send, TaskManagementResponse(0, pdu.initiator_task_tag)
            )

    target.on[TaskManagementRequest] = answer
    target.on[ScsiCommand] = then(silence, silence, silence, status(0))
    overdue = [send(paths, READ, timeout=0.02, replay=False) for _ in range(3)]
    errors = await asyncio.gather(*overdue)
    assert all(error is not None for error, *_ in errors)
    assert functions.count(TaskManagementFunction.LOGICAL_UNIT_RESET) == 1
    assert target.logins == 1


async def test_time_limits_can_be_changed_while_a_session_is_up(
    paths: Multipath, target: ScriptedTarget
) -> None:
    paths.use_settings(replace(QUICK, ping_interval=0.01))
    await target.until(lambda: bool(received(target, NopOut)))
    assert target.logins == 1
