"""Codes: the groups of CDB lengths, and that no name has two values."""

from __future__ import annotations

from enum import IntEnum

import pytest

from daiko.scsi import opcode
from daiko.scsi.opcode import Opcode, Status


@pytest.mark.parametrize(
    ("suffix", "groups"),
    [("_6", {0}), ("_10", {1, 2}), ("_12", {5}), ("_16", {4})],
)
def test_opcode_with_a_length_in_its_name_lies_in_the_group_of_that_length(
    suffix: str, groups: set[int]
) -> None:
    named = [code for code in Opcode if code.name.endswith(suffix)]
    assert named
    assert {code >> 5 for code in named} <= groups


def test_enumerations_have_no_aliases() -> None:
    for value in vars(opcode).values():
        if isinstance(value, type) and issubclass(value, IntEnum) and value is not IntEnum:
            assert list(value.__members__.values()) == list(value)


def test_status_codes_are_those_of_sam() -> None:
    assert {status.name: int(status) for status in Status} == {
        "GOOD": 0x00,
        "CHECK_CONDITION": 0x02,
        "CONDITION_MET": 0x04,
        "BUSY": 0x08,
        "RESERVATION_CONFLICT": 0x18,
        "TASK_SET_FULL": 0x28,
        "ACA_ACTIVE": 0x30,
        "TASK_ABORTED": 0x40,
    }
