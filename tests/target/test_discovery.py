"""Discovery sessions over a socket of the target port."""

from __future__ import annotations

from daiko.iscsi.bhs import (
    RESERVED_TAG,
)
from daiko.iscsi.error import RejectReason
from daiko.iscsi.pdu import (
    LogoutRequest,
    NopOut,
    Reject,
    TextRequest,
    TextResponse,
)
from daiko.iscsi.text_key import parse_text
from daiko.target.portal import Target
from target.memory_access import BLOCK, IQN, MemoryAccess, serving
from target.raw_initiator import (
    RawInitiator,
    alive,
    read_10,
)


async def test_discovery_lists_the_target_at_the_address_that_was_reached(
    access: MemoryAccess,
) -> None:
    target = Target(IQN, access)
    bound = await target.listen("0.0.0.0:0")
    portal = "127.0.0.1:" + bound.rsplit(":", 1)[1]
    async with await RawInitiator.connect(portal) as host:
        assert (await host.login(None)).status == 0
        assert "TargetPortalGroupTag" not in host.keys
        for value in ("All", IQN):
            host.text({"SendTargets": value})
            answer: TextResponse = await host.receive()
            assert parse_text(answer.data) == [
                ("TargetName", IQN), ("TargetAddress", f"{portal},1"),
            ]  # fmt: skip
        host.text({"SendTargets": "iqn.other"})
        assert (await host.receive()).data == b""
        host.send(LogoutRequest(0, 4, 0, host.cmd_sn))
        assert (await host.receive()).response == 0
        assert await host.is_closed()
    assert access.started == []
    await target.stop()


async def test_discovery_hides_a_target_from_a_host_that_may_not_use_it(
    portal: str, access: MemoryAccess
) -> None:
    access.allowed = lambda name: False
    async with await RawInitiator.connect(portal) as host:
        await host.login(None)
        for value in ("All", IQN):
            host.text({"SendTargets": value})
            assert (await host.receive()).data == b""


async def test_discovery_session_takes_no_scsi_command(portal: str) -> None:
    async with await RawInitiator.connect(portal) as host:
        await host.login(None)
        host.command(read_10(0, 1), read=BLOCK)
        answer: Reject = await host.receive()
        assert answer.reason == RejectReason.PROTOCOL_ERROR
        host.cmd_sn -= 1
        host.text({"SendTargets": "All"})
        assert (await host.receive()).final


async def test_discovery_session_answers_pings_and_logouts_like_any_other(portal: str) -> None:
    async with await RawInitiator.connect(portal) as host:
        await host.login(None, keys={"DataDigest": "CRC32C"})
        assert await alive(host)
        host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=host.take_cmd_sn()))
        assert (await host.receive()).exp_cmd_sn == 2
        for reason, cid, response in ((1, 9, 1), (2, 0, 2)):
            host.send(LogoutRequest(reason, 4, cid, host.cmd_sn))
            assert (await host.receive()).response == response
        host.text({"MaxConnections": "2"})
        assert (await host.receive()).reason == RejectReason.PROTOCOL_ERROR
        host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=77777))
        assert await alive(host)
        ping = NopOut(initiator_task_tag=5, data=b"data")
        host.send_bytes(ping.pack() + ping.data + b"bad!")
        assert (await host.receive()).reason == RejectReason.DATA_DIGEST_ERROR
        assert await alive(host)
        text = TextRequest(initiator_task_tag=5, cmd_sn=host.cmd_sn, data=b"SendTargets=All\0")
        host.send_bytes(text.pack() + bytes(text.data) + b"bad!")
        assert (await host.receive()).reason == RejectReason.DATA_DIGEST_ERROR
        assert await host.is_closed()


async def test_text_continued_by_both_sides_is_one_exchange(access: MemoryAccess) -> None:
    async with serving(access) as (target, portal):
        for _ in range(40):
            await target.listen("127.0.0.1:0")
        async with await RawInitiator.connect(portal) as host:
            await host.login(None, keys={"MaxRecvDataSegmentLength": "512"})
            host.send(
                TextRequest(False, True, 0, 7, RESERVED_TAG, host.take_cmd_sn(), data=b"SendTar")
            )
            answer: TextResponse = await host.receive()
            assert (answer.final, answer.continued, answer.data) == (False, False, b"")
            host.send(
                TextRequest(
                    True, False, 0, 7, answer.target_transfer_tag, host.take_cmd_sn(),
                    data=b"gets=All\0",
                )
            )  # fmt: skip
            text = b""
            while not (answer := await host.receive()).final:
                assert answer.continued
                assert answer.target_transfer_tag != RESERVED_TAG
                text += answer.data
                host.send(
                    TextRequest(True, False, 0, 7, answer.target_transfer_tag, host.take_cmd_sn())
                )
            pairs = parse_text(text + bytes(answer.data))
            assert len(text) > 512
            assert pairs == [
                ("TargetName", IQN), *(("TargetAddress", f"{p},1") for p in target.portals),
            ]  # fmt: skip
