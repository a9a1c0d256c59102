"""SITE IN and SITE OUT: the CDBs, byte for byte as docs/protocol.md has them."""

from __future__ import annotations

import pytest

from daiko.scsi import site
from daiko.scsi.layout import Layout
from daiko.scsi.opcode import SiteIn, SiteOut

CDBS = [
    pytest.param(site.Greet.pack(allocation_length=0x1000),
                 "d4 00 0000 0000 00000000 00001000 00 00", id="GREET"),
    pytest.param(site.Volumes.pack(starting_index=7, allocation_length=0x1000),
                 "d4 01 0000 0000 00000007 00001000 00 00", id="VOLUMES"),
    pytest.param(site.VolumeMapping.pack(lun=0x123, starting_index=7, allocation_length=0x1000),
                 "d4 02 0123 0000 00000007 00001000 00 00", id="VOLUME_MAPPING"),
    pytest.param(site.AskFunction.pack(lun=1, device=2, function=2, allocation_length=0x1000),
                 "d4 03 0001 0002 00000000 00001000 02 00", id="ASK_FUNCTION"),
    pytest.param(site.FunctionTable.pack(starting_index=1, allocation_length=0x1000),
                 "d4 04 0000 0000 00000001 00001000 00 00", id="FUNCTION_TABLE"),
    pytest.param(site.PairIn.pack(lun=1, starting_index=1, allocation_length=0x1000),
                 "d4 10 0001 0000 00000001 00001000 00 00", id="PAIR_IN"),
    pytest.param(site.PairOut.pack(lun=1, parameter_list_length=0x34),
                 "d5 10 0001 0000 00000000 00000034 00 00", id="PAIR_OUT"),
]  # fmt: skip


@pytest.mark.parametrize(("cdb", "expected"), CDBS)
def test_cdb_is_laid_out_as_the_protocol_says(cdb: bytes, expected: str) -> None:
    assert cdb == bytes.fromhex(expected)


def test_every_service_action_has_a_cdb_here() -> None:
    tried = {bytes.fromhex(str(case.values[1]))[:2] for case in CDBS}
    actions = [bytes((0xD4, action)) for action in SiteIn]
    assert tried == {*actions, *(bytes((0xD5, action)) for action in SiteOut)}


@pytest.mark.parametrize(
    ("layout", "field", "byte"),
    [
        pytest.param(site.VolumeMapping, "lun", site.LUN_BYTE, id="lun"),
        pytest.param(site.AskFunction, "device", site.DEVICE_BYTE, id="device"),
        pytest.param(site.AskFunction, "function", site.FUNCTION_BYTE, id="function"),
        pytest.param(site.Greet, "allocation_length", site.LENGTH_BYTE, id="allocation length"),
        pytest.param(site.PairOut, "parameter_list_length", site.LENGTH_BYTE, id="list length"),
    ],
)
def test_field_pointers_point_at_the_fields(layout: Layout, field: str, byte: int) -> None:
    assert {each.name: each.byte for each in layout.fields}[field] == byte
