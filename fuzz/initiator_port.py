"""Invariant: any bytes from a target end each command once; what is left of them is known."""

from __future__ import annotations

import asyncio

from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.initiator.command import AskedCommand, Command
from daiko.initiator.login import LoggedIn
from daiko.initiator.session import Session
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi import pdu
from daiko.iscsi.error import RemoteProtocolError
from daiko.iscsi.framing import Handler
from daiko.iscsi.login import Admission, InitiatorLogin, TargetLogin
from daiko.port.connection import Connection
from daiko.scsi.sbc import Read16, Write16
from daiko.scsi.sense import invalid_opcode
from daiko.scsi.spc import TestUnitReady
from port_rig import OFFER_WITHOUT_DIGESTS, Wire, pieces, raise_defect, stream

COST = 20

# A case: bit 0 of the first byte = writes wait for R2T; then what the target sends after login.
SETTINGS = InitiatorSettings(tick=3600.0)
WRITTEN = bytes(range(256)) * 80
READ_LENGTH = 12_000
TAGS = (1, 2, 3, 4)
"""Initiator task tags of the four commands, in the order of `_commands`."""


class Owner:
    """Keeps account of how commands and the session end."""

    def __init__(self) -> None:
        self.ended: list[Command] = []
        self.lost_with: list[str] = []

    def completed(self, command: Command, status: int, sense: bytes) -> None:
        assert status, "GOOD ends the command itself"
        self.note(command)

    def note(self, command: Command) -> None:
        assert command.received <= command.read_length
        assert len(command.data_in) == command.received
        self.ended.append(command)

    def lost(self, session: Session, error: str) -> None:
        self.lost_with.append(error)


class Role:
    """The initiator's half of a connection whose login is over."""

    def __init__(self, logged_in: LoggedIn, owner: Owner) -> None:
        self.connection = Connection(self)
        self.session = Session(self.connection, logged_in, owner, SETTINGS, "fuzz")
        framer = self.connection.framer
        framer.maximum_data_length = logged_in.parameters.receive_limit
        framer.dispatch = self.session.dispatch()
        framer.place = self.session.place

    def dispatch(self) -> list[Handler]:
        return []

    def connected(self) -> None:
        pass

    def refused(self, error: RemoteProtocolError) -> None:
        self.session.refused(error)

    def congestion_ended(self) -> None:
        self.session.congestion_ended()

    def lost(self, error: Exception | None) -> None:
        self.session.ended(error)


def _log_in(*, waits_for_r2t: bool) -> LoggedIn:
    """A login with our own target's half."""
    offer = {**OFFER_WITHOUT_DIGESTS}
    if waits_for_r2t:
        offer |= {"InitialR2T": True, "ImmediateData": False}
    initiator = InitiatorLogin("iqn.a:host", "iqn.a:target", b"\x80" + bytes(5), offer=offer)
    target = TargetLogin(lambda identity: Admission(tsih=1))
    request: pdu.LoginRequest | None = initiator.start()
    while request is not None:
        response, goes_on = target.receive(request)
        assert goes_on
        request = initiator.receive(response)
    assert initiator.parameters is not None
    return LoggedIn(initiator, initiator.parameters)


LOGINS = [_log_in(waits_for_r2t=waits) for waits in (False, True)]
LOOP = asyncio.new_event_loop()


def _asked(owner: Owner, cdb: bytes, data: bytes = b"", length: int = 0) -> AskedCommand:
    """A command that tells the owner when it ends well."""

    def done(error: DeviceError | None, status: int, data_in: Buffer, sense: bytes) -> None:
        assert error is None
        assert status == 0
        assert len(data_in) == command.received
        owner.note(command)

    command = AskedCommand(0, cdb, done, data, length)
    return command


def _commands(owner: Owner) -> list[AskedCommand]:
    return [
        _asked(owner, Read16.pack(transfer_length=2), length=1024),
        _asked(owner, Read16.pack(transfer_length=24), length=READ_LENGTH),
        _asked(owner, Write16.pack(transfer_length=40), WRITTEN),
        _asked(owner, TestUnitReady.pack().ljust(16, b"\0")),
    ]


def corpus() -> list[bytes]:
    small, large, write, ready = TAGS
    sense = invalid_opcode().fixed()
    failed = len(sense).to_bytes(2, "big") + sense
    window = {"exp_cmd_sn": 5, "max_cmd_sn": 100}
    r2t = pdu.ReadyToTransfer(0, write, 9, 1, 5, 100, 0, 0, len(WRITTEN))
    answers = [
        stream(
            pdu.DataIn(0x81, initiator_task_tag=small, stat_sn=1, data=bytes(1024), **window),
            pdu.ScsiResponse(initiator_task_tag=ready, stat_sn=2, **window),
        ),
        stream(
            pdu.DataIn(0, initiator_task_tag=large, data=bytes(9000), **window),
            pdu.DataIn(
                0x81, initiator_task_tag=large, data_sn=1, buffer_offset=9000, stat_sn=1,
                data=bytes(3000), **window,
            ),
        ),
        stream(r2t, pdu.ScsiResponse(initiator_task_tag=write, stat_sn=1, **window)),
        stream(
            pdu.ScsiResponse(
                status=2, initiator_task_tag=ready, stat_sn=1, data=failed, **window
            ),
            pdu.NopIn(target_transfer_tag=7, stat_sn=2, data=b"ping", **window),
            pdu.Reject(4, 2, 5, 100, data=bytes(48)),
        ),
        stream(pdu.AsyncMessage(1, 0, 1, 5, 100, 0, 0, 2, 2)),
        stream(pdu.AsyncMessage(0, 0, 1, 5, 100, data=failed)),
        stream(
            pdu.LogoutResponse(0, 9, 1, 5, 100, 2, 0),
            pdu.TaskManagementResponse(0, 9, 2, 5, 100),
        ),
    ]  # fmt: skip
    return [bytes((kind,)) + answer for answer in answers for kind in (0, 1)]


async def _case(data: bytes) -> bool:
    waits_for_r2t, data = data[0] & 1, data[1:]
    owner = Owner()
    role = Role(LOGINS[waits_for_r2t], owner)
    wire = Wire(role.connection)
    commands = _commands(owner)
    for command in commands:
        role.session.submit(command)
    for piece in pieces(data):
        wire.feed(piece)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    raise_defect()
    for header, _ in wire.answers():
        assert header[0] & 0x3F < 0x20, "an opcode of a target"
    went_well = not wire.transport.is_closed
    role.connection.connection_lost(None)
    assert len(owner.lost_with) == 1
    left = role.session.unfinished
    assert sorted(map(id, owner.ended + left)) == sorted(map(id, commands))
    return went_well


def check(data: bytes) -> bool:
    return LOOP.run_until_complete(_case(data)) if data else False
