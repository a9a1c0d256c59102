"""Every PDU class: what is packed is parsed again; BHS of 48 bytes; fields where RFC 7143 says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.iscsi import pdu
from daiko.iscsi.bhs import BHS_LENGTH, LENGTHS, OPCODE_MASK, RESERVED_TAG, Opcode

U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFFFFFF)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "lun": st.integers(0, 2**64 - 1),
    "data": st.binary(max_size=40),
    "ahs": st.binary(max_size=8).map(lambda b: b[: len(b) // 4 * 4]),
    "cdb": st.binary(min_size=16, max_size=16),
    "isid": st.binary(min_size=6, max_size=6),
    "attribute": st.integers(0, 7),
    "function": st.integers(0, 127),
    "current_stage": st.sampled_from([0, 1, 3]),
    "cid": U16,
    "tsih": U16,
    "status": st.integers(0, 255),
    "version_max": st.integers(0, 255),
    "version_min": st.integers(0, 255),
    "version_active": st.integers(0, 255),
    "time2wait": U16,
    "time2retain": U16,
    "parameter1": U16,
    "parameter2": U16,
    "parameter3": U16,
    "vendor_code": st.integers(0, 255),
    "event": st.integers(0, 255),
    "response": st.integers(0, 255),
    "type": st.integers(0, 15),
    "flags": st.sampled_from([0, 2, 4, 8, 16, 0x80 | 1]),
}


def values_of(cls: type[pdu.Pdu]) -> st.SearchStrategy[dict[str, Any]]:
    strategies: dict[str, st.SearchStrategy[Any]] = {}
    for field in dataclasses.fields(cls):
        if field.type == "bool":
            strategies[field.name] = st.booleans()
        elif field.name == "reason":
            top = 255 if cls is pdu.Reject else 127
            strategies[field.name] = st.integers(0, top)
        elif field.name == "flags" and cls is pdu.ScsiResponse:
            strategies[field.name] = st.sampled_from([0, 2, 4, 8, 16])
        elif cls is pdu.LoginResponse and field.name == "status":
            strategies[field.name] = U16
        else:
            strategies[field.name] = FIELDS.get(field.name, U32)
    if "next_stage" in strategies:
        # NSG exists only where T is set.
        strategies["next_stage"] = st.sampled_from([1, 3])
        strategies["transit"] = st.just(True)
    return st.fixed_dictionaries(strategies)


@pytest.mark.parametrize("cls", pdu.PDU_CLASSES.values(), ids=lambda c: c.__name__)
@given(draw=st.data())
def test_pdu_packed_is_parsed_to_the_same(cls: Any, draw: st.DataObject) -> None:
    made = cls(**draw.draw(values_of(cls)))
    header = made.pack()
    assert len(header) == BHS_LENGTH
    assert header[0] & OPCODE_MASK == cls.opcode
    (word,) = LENGTHS.unpack_from(header, 4)
    assert word & 0xFFFFFF == len(getattr(made, "data", b""))
    extra = {"ahs": made.ahs} if cls is pdu.ScsiCommand else {}
    shifted = b"\xee" * 7 + header
    assert cls.parse(shifted, 7, getattr(made, "data", b""), **extra) == made


def test_every_opcode_of_the_standard_has_a_class() -> None:
    assert set(pdu.PDU_CLASSES) == set(Opcode)


GOLDEN: dict[str, tuple[pdu.Pdu, str]] = {
    "scsi-command-read": (
        pdu.ScsiCommand(
            False, True, True, False, 1, 0x0001 << 48, 0x11223344, 4096, 5, 9,
            bytes.fromhex("28000000000000000800") + bytes(6),
        ),
        "01c10000 00000000 0001000000000000 11223344 00001000 00000005 00000009"
        "28000000 00000000 08000000 00000000",
    ),
    "scsi-response-underflow": (
        pdu.ScsiResponse(2, 0, 2, 7, 0, 10, 11, 12, 0, 0, 512, b"\x00\x12"),
        "21820002 00000002 0000000000000000 00000007 00000000 0000000a 0000000b 0000000c"
        "00000000 00000000 00000200",
    ),
    "data-in-with-status": (
        pdu.DataIn(0x81, 0, 0, 7, RESERVED_TAG, 10, 11, 12, 0, 0, 0, bytes(512)),
        "25810000 00000200 0000000000000000 00000007 ffffffff 0000000a 0000000b 0000000c"
        "00000000 00000000 00000000",
    ),
    "data-out": (
        pdu.DataOut(True, 1 << 48, 7, 3, 9, 2, 8192, bytes(4)),
        "05800000 00000004 0001000000000000 00000007 00000003 00000000 00000009 00000000"
        "00000002 00002000 00000000",
    ),
    "r2t": (
        pdu.ReadyToTransfer(1 << 48, 7, 3, 10, 11, 12, 1, 65536, 262144),
        "31800000 00000000 0001000000000000 00000007 00000003 0000000a 0000000b 0000000c"
        "00000001 00010000 00040000",
    ),
    "login-request": (
        pdu.LoginRequest(True, False, 0, 1, bytes.fromhex("80123456789a"), 0, 1, 2, 3, 4),
        "43810000 00000000 80123456789a 0000 00000001 00020000 00000003 00000004"
        "00000000 00000000 00000000 00000000",
    ),
    "login-response-failure": (
        pdu.LoginResponse(
            False, False, 1, 0, bytes.fromhex("80123456789a"), 0, 1, 0, 3, 4, 0x0203
        ),
        "23040000 00000000 80123456789a 0000 00000001 00000000 00000000 00000003"
        "00000004 02030000 00000000 00000000",
    ),
    "nop-in-ping": (
        pdu.NopIn(0, RESERVED_TAG, 5, 10, 11, 12),
        "a0800000 00000000 0000000000000000 ffffffff 00000005 0000000a 0000000b 0000000c"
        "00000000 00000000 00000000".replace("a0", "20", 1),
    ),
    "task-management-abort": (
        pdu.TaskManagementRequest(1, 1 << 48, 8, 7, 5, 9, 4),
        "42810000 00000000 0001000000000000 00000008 00000007 00000005 00000009 00000004"
        "00000000 00000000 00000000",
    ),
    "task-management-response": (
        pdu.TaskManagementResponse(5, 8, 10, 11, 12),
        "22800500 00000000 0000000000000000 00000008 00000000 0000000a 0000000b 0000000c"
        "00000000 00000000 00000000",
    ),
    "logout-request": (
        pdu.LogoutRequest(1, 8, 2, 5, 9),
        "46810000 00000000 0000000000000000 00000008 00020000 00000005 00000009"
        "00000000 00000000 00000000 00000000",
    ),
    "logout-response": (
        pdu.LogoutResponse(0, 8, 10, 11, 12, 2, 20),
        "26800000 00000000 0000000000000000 00000008 00000000 0000000a 0000000b 0000000c"
        "00000000 00020014 00000000",
    ),
    "reject": (
        pdu.Reject(4, 10, 11, 12, 0, bytes(48)),
        "3f800400 00000030 0000000000000000 ffffffff 00000000 0000000a 0000000b 0000000c"
        "00000000 00000000 00000000",
    ),
    "async-logout-requested": (
        pdu.AsyncMessage(1, 0, 10, 11, 12, 0, 0, 0, 3),
        "32800000 00000000 0000000000000000 ffffffff 00000000 0000000a 0000000b 0000000c"
        "01000000 00000003 00000000",
    ),
    "text-request": (
        pdu.TextRequest(True, False, 0, 8, RESERVED_TAG, 5, 9, False, b"SendTargets=All\0"),
        "04800000 00000010 0000000000000000 00000008 ffffffff 00000005 00000009"
        "00000000 00000000 00000000 00000000",
    ),
    "snack": (
        pdu.SnackRequest(0, 0, 7, RESERVED_TAG, 9, 3, 4),
        "10800000 00000000 0000000000000000 00000007 ffffffff 00000000 00000009"
        "00000000 00000000 00000003 00000004",
    ),
}  # fmt: skip
"""Made by hand from the figures of RFC 7143, section 11."""


@pytest.mark.parametrize(("made", "golden"), GOLDEN.values(), ids=GOLDEN.keys())
def test_pdu_fields_stand_where_the_standard_puts_them(made: pdu.Pdu, golden: str) -> None:
    wire = bytes.fromhex(golden)
    assert made.pack() == wire
    parse: Any = type(made).parse
    assert parse(wire, 0, getattr(made, "data", b"")) == made


def test_sense_is_cut_to_its_length_field() -> None:
    assert pdu.ScsiResponse(data=b"\x00\x03abcdef").sense == b"abc"
    assert pdu.ScsiResponse(data=b"\x00").sense == b""
