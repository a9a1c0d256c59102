"""PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE: CDBs and parameter data.

Clauses are those of SPC-4 (6.15 and 6.16); RESERVE and RELEASE are those of SPC-2, without third
parties and extents. What the commands do: `target/registrations.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from daiko.scsi.layout import Buffer, Layout, MalformedData, bit, bits, number
from daiko.scsi.opcode import Opcode, PersistentReserveIn, PersistentReserveOut
from daiko.scsi.sense import (
    CheckCondition,
    invalid_field_in_parameter_list,
    parameter_list_length_error,
)
from daiko.scsi.spc import control, opcode, service_action
from daiko.scsi.transport_id import (
    SHORTEST,
    TransportId,
    pack_transport_ids,
    parse_transport_id,
    parse_transport_ids,
)


class ReservationType(IntEnum):
    """TYPE (6.15.3.4)."""

    WRITE_EXCLUSIVE = 0x1
    EXCLUSIVE_ACCESS = 0x3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8

    @property
    def is_write_exclusive(self) -> bool:
        """Others may read."""
        return self in _WRITE_EXCLUSIVE

    @property
    def admits_registrants(self) -> bool:
        """Whoever is registered may do what the holder may: registrants only, all registrants."""
        return self >= ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY

    @property
    def is_all_registrants(self) -> bool:
        """Whoever is registered is a holder."""
        return self >= ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS


_WRITE_EXCLUSIVE = frozenset(
    {
        ReservationType.WRITE_EXCLUSIVE,
        ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
        ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    }
)

LU_SCOPE = 0
"""SCOPE (6.15.3.3): the entire logical unit; there is no other."""

# --- CDBs ----------------------------------------------------------------------------------------


def _persistent_reserve_in(name: str, action: PersistentReserveIn) -> Layout:
    return Layout(
        name,
        10,
        opcode(Opcode.PERSISTENT_RESERVE_IN),
        service_action(action),
        number("allocation_length", 7, 2),
        control(9),
    )


def _persistent_reserve_out(name: str, action: PersistentReserveOut) -> Layout:
    return Layout(
        name,
        10,
        opcode(Opcode.PERSISTENT_RESERVE_OUT),
        service_action(action),
        bits("scope", 2, 7, 4),
        bits("type", 2, 3, 0),
        number("parameter_list_length", 5, 4),
        control(9),
    )


ReadKeys = _persistent_reserve_in("ReadKeys", PersistentReserveIn.READ_KEYS)
ReadReservation = _persistent_reserve_in("ReadReservation", PersistentReserveIn.READ_RESERVATION)
ReportCapabilities = _persistent_reserve_in(
    "ReportCapabilities", PersistentReserveIn.REPORT_CAPABILITIES
)
ReadFullStatus = _persistent_reserve_in("ReadFullStatus", PersistentReserveIn.READ_FULL_STATUS)

Register = _persistent_reserve_out("Register", PersistentReserveOut.REGISTER)
Reserve = _persistent_reserve_out("Reserve", PersistentReserveOut.RESERVE)
Release = _persistent_reserve_out("Release", PersistentReserveOut.RELEASE)
Clear = _persistent_reserve_out("Clear", PersistentReserveOut.CLEAR)
Preempt = _persistent_reserve_out("Preempt", PersistentReserveOut.PREEMPT)
PreemptAndAbort = _persistent_reserve_out("PreemptAndAbort", PersistentReserveOut.PREEMPT_AND_ABORT)
RegisterAndIgnoreExistingKey = _persistent_reserve_out(
    "RegisterAndIgnoreExistingKey", PersistentReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY
)
RegisterAndMove = _persistent_reserve_out("RegisterAndMove", PersistentReserveOut.REGISTER_AND_MOVE)

Reserve6 = Layout("Reserve6", 6, opcode(Opcode.RESERVE_6), control(5))
Release6 = Layout("Release6", 6, opcode(Opcode.RELEASE_6), control(5))
Reserve10 = Layout("Reserve10", 10, opcode(Opcode.RESERVE_10), control(9))
Release10 = Layout("Release10", 10, opcode(Opcode.RELEASE_10), control(9))

# --- PERSISTENT RESERVE IN: parameter data -------------------------------------------------------

_HEADER = 8
_DESCRIPTOR = 24


def _behind_header(generation: int, data: bytes) -> bytes:
    return (generation & 0xFFFFFFFF).to_bytes(4, "big") + len(data).to_bytes(4, "big") + data


def _body(data: Buffer) -> tuple[int, Buffer]:
    """(PRgeneration, what the ADDITIONAL LENGTH counts). Raises MalformedData."""
    length = int.from_bytes(data[4:8], "big")
    if len(data) < _HEADER + length:
        raise MalformedData(f"PERSISTENT RESERVE IN: {length} bytes announced, {len(data)} present")
    return int.from_bytes(data[:4], "big"), data[_HEADER : _HEADER + length]


def pack_read_keys(generation: int, keys: Iterable[int]) -> bytes:
    """6.15.2. A key that several I_T nexuses have registered is there once for each."""
    return _behind_header(generation, b"".join([key.to_bytes(8, "big") for key in keys]))


def parse_read_keys(data: Buffer) -> tuple[int, tuple[int, ...]]:
    """(PRgeneration, keys). Raises MalformedData."""
    generation, body = _body(data)
    ends = range(8, len(body) + 1, 8)
    return generation, tuple([int.from_bytes(body[end - 8 : end], "big") for end in ends])


_Reservation = Layout(
    "ReservationDescriptor",
    16,
    number("key", 0, 8),
    bits("scope", 13, 7, 4),
    bits("type", 13, 3, 0),
)


def pack_read_reservation(generation: int, key: int, type: ReservationType | None) -> bytes:
    """6.15.3. `type` None: there is no reservation."""
    if type is None:
        return _behind_header(generation, b"")
    return _behind_header(generation, _Reservation.pack(key=key, scope=LU_SCOPE, type=type))


def parse_read_reservation(data: Buffer) -> tuple[int, int, ReservationType | None]:
    """(PRgeneration, the holder's key, type). Raises MalformedData."""
    generation, body = _body(data)
    if not len(body):
        return generation, 0, None
    fields = _Reservation.unpack(body)
    return generation, fields.key, _type(fields.type)


def _type(code: int) -> ReservationType:
    try:
        return ReservationType(code)
    except ValueError as error:
        raise MalformedData(f"{code:x}h is no type of a persistent reservation") from error


ALLOWS_ALL_IT_MAY = 0b100
"""ALLOW COMMANDS (6.15.4): every command of its list is carried out as table 65 allows."""

_Capabilities = Layout(
    "PersistentReservationCapabilities",
    8,
    number("length", 0, 2, default=8),
    bit("rlr_c", 2, 7),
    bit("crh", 2, 4, default=1),
    bit("sip_c", 2, 3, default=1),
    bit("atp_c", 2, 2, default=1),
    bit("ptpl_c", 2, 0),
    bit("tmv", 3, 7, default=1),
    bits("allow_commands", 3, 6, 4, default=ALLOWS_ALL_IT_MAY),
    bit("ptpl_a", 3, 0),
    bit("wr_ex_ar", 4, 7, default=1),
    bit("ex_ac_ro", 4, 6, default=1),
    bit("wr_ex_ro", 4, 5, default=1),
    bit("ex_ac", 4, 3, default=1),
    bit("wr_ex", 4, 1, default=1),
    bit("ex_ac_ar", 5, 0, default=1),
)


def pack_capabilities(*, keeps: bool, is_kept: bool) -> bytes:
    """6.15.4, as this product has them. `keeps`: registrations can outlive a loss of power
    (PTPL_C); `is_kept`: they do now (PTPL_A)."""
    return _Capabilities.pack(ptpl_c=keeps, ptpl_a=is_kept)


_FullStatus = Layout(
    "FullStatusDescriptor",
    _DESCRIPTOR,
    number("key", 0, 8),
    bit("all_tg_pt", 12, 1),
    bit("r_holder", 12, 0),
    bits("scope", 13, 7, 4),
    bits("type", 13, 3, 0),
    number("relative_target_port", 18, 2),
    number("additional_length", 20, 4),
)


@dataclass(frozen=True, slots=True)
class FullStatus:
    """One I_T nexus in READ FULL STATUS (6.15.5)."""

    key: int
    transport_id: TransportId
    relative_target_port: int
    type: ReservationType | None = None
    """Of the reservation that it holds; None where it holds none."""

    def pack(self) -> bytes:
        """The descriptor. Target ports stand one by one, so ALL_TG_PT is 0."""
        port = self.transport_id.pack()
        return (
            _FullStatus.pack(
                key=self.key,
                r_holder=self.type is not None,
                scope=LU_SCOPE,
                type=self.type or 0,
                relative_target_port=self.relative_target_port,
                additional_length=len(port),
            )
            + port
        )


def pack_full_status(generation: int, nexuses: Iterable[FullStatus]) -> bytes:
    """6.15.5."""
    return _behind_header(generation, b"".join([each.pack() for each in nexuses]))


def parse_full_status(data: Buffer) -> tuple[int, tuple[FullStatus, ...]]:
    """(PRgeneration, I_T nexuses). Raises MalformedData."""
    generation, body = _body(data)
    found, at = [], 0
    while at < len(body):
        fields = _FullStatus.unpack(body, at)
        at += _DESCRIPTOR
        end = at + fields.additional_length
        if end > len(body):
            raise MalformedData("READ FULL STATUS: a TransportID is cut short")
        port, _ = parse_transport_id(body[at:end])
        at = end
        type = _type(fields.type) if fields.r_holder else None
        found.append(FullStatus(fields.key, port, fields.relative_target_port, type))
    return generation, tuple(found)


# --- PERSISTENT RESERVE OUT: parameter lists -----------------------------------------------------

LIST_LENGTH = 24
"""Bytes of the basic parameter list."""

_Basic = Layout(
    "PersistentReserveOutList",
    LIST_LENGTH,
    number("key", 0, 8),
    number("service_action_key", 8, 8),
    bit("spec_i_pt", 20, 3),
    bit("all_tg_pt", 20, 2),
    bit("aptpl", 20, 0),
)
_BASIC_MASK = _Basic.legal_bits()[:16] + b"\xff" * 4 + _Basic.legal_bits()[20:22] + b"\xff" * 2
"""Bytes 16 to 19, 22 and 23 are obsolete: whatever they hold is ignored."""

_Move = Layout(
    "RegisterAndMoveList",
    LIST_LENGTH,
    number("key", 0, 8),
    number("service_action_key", 8, 8),
    bit("unreg", 17, 1),
    bit("aptpl", 17, 0),
    number("relative_target_port", 18, 2),
    number("transport_id_length", 20, 4),
)

SERVICE_ACTION_KEY_BYTE = 8
FLAGS_BYTE, SPEC_I_PT_BIT, APTPL_BIT = 20, 3, 0
MOVE_FLAGS_BYTE, MOVE_APTPL_BIT, MOVE_PORT_BYTE = 17, 0, 18
"""Where fields stand in the lists, for field pointers."""


@dataclass(frozen=True, slots=True)
class ReserveOutList:
    """The basic parameter list (6.16.3)."""

    key: int
    """RESERVATION KEY: that of the I_T nexus that sends the command."""
    service_action_key: int = 0
    aptpl: bool = False
    all_tg_pt: bool = False
    spec_i_pt: bool = False
    transport_ids: tuple[TransportId, ...] = ()
    """With SPEC_I_PT."""

    def pack(self) -> bytes:
        """The list, with the TransportIDs where SPEC_I_PT is set."""
        data = _Basic.pack(
            key=self.key,
            service_action_key=self.service_action_key,
            spec_i_pt=self.spec_i_pt,
            all_tg_pt=self.all_tg_pt,
            aptpl=self.aptpl,
        )
        if not self.spec_i_pt:
            return data
        ids = pack_transport_ids(self.transport_ids)
        return data + len(ids).to_bytes(4, "big") + ids


def parse_reserve_out(data: Buffer, *, takes_ports: bool) -> ReserveOutList:
    """The basic parameter list, all of it. `takes_ports`: the service action is REGISTER, the only
    one with SPEC_I_PT. Raises CheckCondition."""
    if len(data) < LIST_LENGTH:
        raise CheckCondition(parameter_list_length_error())
    stray = _Basic.stray_bit(data, _BASIC_MASK)
    if stray is not None:
        raise CheckCondition(invalid_field_in_parameter_list(*stray))
    fields = _Basic.unpack(data)
    ids: tuple[TransportId, ...] = ()
    if fields.spec_i_pt:
        if not takes_ports:
            raise CheckCondition(invalid_field_in_parameter_list(FLAGS_BYTE, SPEC_I_PT_BIT))
        ids = _ports(data)
    elif len(data) != LIST_LENGTH:
        raise CheckCondition(parameter_list_length_error())
    return ReserveOutList(
        key=fields.key,
        service_action_key=fields.service_action_key,
        aptpl=bool(fields.aptpl),
        all_tg_pt=bool(fields.all_tg_pt),
        spec_i_pt=bool(fields.spec_i_pt),
        transport_ids=ids,
    )


def _ports(data: Buffer) -> tuple[TransportId, ...]:
    """The additional parameter data of SPEC_I_PT."""
    start = LIST_LENGTH + 4
    if len(data) < start:
        raise CheckCondition(parameter_list_length_error())
    length = int.from_bytes(data[LIST_LENGTH:start], "big")
    if start + length > len(data):
        raise CheckCondition(parameter_list_length_error())
    try:
        return parse_transport_ids(data, start, length)
    except MalformedData as error:
        raise CheckCondition(invalid_field_in_parameter_list(LIST_LENGTH)) from error


@dataclass(frozen=True, slots=True)
class MoveList:
    """The parameter list of REGISTER AND MOVE (6.16.4)."""

    key: int
    service_action_key: int
    """What the I_T nexus is registered with to which the reservation goes."""
    transport_id: TransportId
    relative_target_port: int
    unreg: bool = False
    """Unregister the I_T nexus that sends the command."""
    aptpl: bool = False

    def pack(self) -> bytes:
        """The list."""
        port = self.transport_id.pack()
        return (
            _Move.pack(
                key=self.key,
                service_action_key=self.service_action_key,
                unreg=self.unreg,
                aptpl=self.aptpl,
                relative_target_port=self.relative_target_port,
                transport_id_length=len(port),
            )
            + port
        )


def parse_move(data: Buffer) -> MoveList:
    """The parameter list of REGISTER AND MOVE. Raises CheckCondition."""
    if len(data) < LIST_LENGTH + SHORTEST:
        raise CheckCondition(parameter_list_length_error())
    stray = _Move.stray_bit(data)
    if stray is not None:
        raise CheckCondition(invalid_field_in_parameter_list(*stray))
    fields = _Move.unpack(data)
    end = LIST_LENGTH + fields.transport_id_length
    if end > len(data):
        raise CheckCondition(parameter_list_length_error())
    try:
        (port,) = parse_transport_ids(data, LIST_LENGTH, end - LIST_LENGTH)
    except ValueError as error:  # MalformedData; or none, or more than one
        raise CheckCondition(invalid_field_in_parameter_list(LIST_LENGTH)) from error
    return MoveList(
        key=fields.key,
        service_action_key=fields.service_action_key,
        transport_id=port,
        relative_target_port=fields.relative_target_port,
        unreg=bool(fields.unreg),
        aptpl=bool(fields.aptpl),
    )
