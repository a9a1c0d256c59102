"""How a second controller is told of an LU: by which form of name, and which names serve."""

from __future__ import annotations

from dataclasses import replace

import pytest

from command_control.situation import DAIKO, LIO, address, directory, naa
from daiko.command_control.function_table import CopyLimits
from daiko.command_control.naming import Form, Naming, Unnameable, name_for
from daiko.mapping.extent import DeviceId

L0, VAULT = DeviceId("sd1", 0), DeviceId("vault", 0)
ALL = directory(address(L0), address(VAULT))


@pytest.mark.parametrize(
    ("limits", "portals", "form"),
    [
        pytest.param(DAIKO, ("192.0.2.7:3260",), Form.ALIAS, id="alias first"),
        pytest.param(
            replace(DAIKO, aliases=False), ("192.0.2.7:3260",), Form.IDENTIFICATION, id="then NAA"
        ),
        pytest.param(
            replace(DAIKO, aliases=False, cscd_types=(0xE5,)),
            ("192.0.2.7:3260",),
            Form.IPV4,
            id="portal last",
        ),
        pytest.param(
            replace(DAIKO, aliases=False, cscd_types=(0xEA,)),
            ("[2001:db8::7]:3260",),
            Form.IPV6,
            id="portal, IPv6",
        ),
        pytest.param(
            replace(DAIKO, aliases=False, cscd_types=(0xEA,)),
            ("192.0.2.7:3260",),
            None,
            id="portal of the other kind",
        ),
        pytest.param(
            replace(DAIKO, aliases=False, cscd_types=(0xE5,)),
            ("vault.example:3260",),
            None,
            id="portal by host name",
        ),
        pytest.param(replace(DAIKO, cscd_types=(0xE5,)), (), None, id="no portal"),
        pytest.param(LIO, ("192.0.2.7:3260",), Form.IDENTIFICATION, id="NAA is all it takes"),
    ],
)
def test_form_of_a_name_on_another_machine(
    limits: CopyLimits, portals: tuple[str, ...], form: Form | None
) -> None:
    there = address(VAULT, portals=portals)
    if form is None:
        with pytest.raises(Unnameable):
            name_for("sd1", there, limits, ALL)
    else:
        assert name_for("sd1", there, limits, ALL).form is form


def test_own_lu_is_always_named_by_its_identifier() -> None:
    assert name_for("sd1", address(L0), DAIKO, ALL) == Naming(Form.IDENTIFICATION, naa(L0))


def test_naa_of_16_bytes_goes_before_shorter_ones() -> None:
    short = bytes.fromhex("01030008 5000000000000001")
    both = address(L0, designators=(short, naa(L0)))
    assert name_for("sd1", both, LIO, ALL).designator == naa(L0)
    assert name_for("sd1", address(L0, designators=(short,)), LIO, ALL).designator == short


@pytest.mark.parametrize(
    "designator",
    [
        pytest.param(bytes.fromhex("02030010") + bytes(16), id="not binary"),
        pytest.param(bytes.fromhex("01130010") + bytes(16), id="of the port"),
        pytest.param(bytes.fromhex("01020008") + bytes(8), id="EUI-64"),
        pytest.param(bytes.fromhex("01030018") + bytes(24), id="too long"),
        pytest.param(bytes.fromhex("01030010") + bytes(8), id="cut short"),
    ],
)
def test_designator_that_does_not_serve_as_a_name(designator: bytes) -> None:
    with pytest.raises(Unnameable, match="sd1/0 shows no NAA identifier"):
        name_for("sd1", address(L0, designators=(designator,)), LIO, ALL)
