"""The rules for what an administrator writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.control import names
from daiko.control.error import Invalid
from daiko.mapping.extent import DeviceId


@pytest.mark.parametrize("text", ["a", "sd1", "old-array.2_b", "0", "x" * 64])
def test_name_is_taken_as_it_is(text: str) -> None:
    assert names.name(text) == text


@pytest.mark.parametrize("text", ["", "A", "-a", "a-", ".a", "a b", "a/0", "ä", "x" * 65, "a\n"])
def test_name_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        names.name(text, "field")
    assert caught.value.field == "field"
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("iqn.2003-01.com.example", "iqn.2003-01.com.example"),
        ("IQN.2003-01.COM.Example:Disk.1", "iqn.2003-01.com.example:disk.1"),
        (" iqn.2003-12.org:x ", "iqn.2003-12.org:x"),
        ("eui.02004567A425678D", "eui.02004567a425678d"),
        ("naa.52004567BA64678D", "naa.52004567ba64678d"),
        ("naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"),
    ],
)
def test_iscsi_name_is_brought_into_its_normal_form(text: str, normal: str) -> None:
    assert names.iscsi_name(text) == normal


@pytest.mark.parametrize(
    "text",
    [
        "",
        "disk1",
        "iqn.2003-13.com.example",
        "iqn.03-01.com.example",
        "iqn.2003-01.com.example:a b",
        "iqn.2003-01.com.example:a/b",
        "iqn.2003-01.com.example:",
        "iqn.2003-01.",
        "eui.0200",
        "naa.52004567BA64678",
        "iqn.2003-01.com.example:" + "x" * 200,
    ],
)
def test_iscsi_name_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        names.iscsi_name(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10.0.0.5", "10.0.0.5:3260"),
        ("array1:99", "array1:99"),
        ("[fd00::5]", "[fd00::5]:3260"),
        (" [fe80::1%eth0]:1 ", "[fe80::1%eth0]:1"),
    ],
)
def test_portal_gets_the_usual_port(text: str, normal: str) -> None:
    assert names.portal(text) == normal


@pytest.mark.parametrize("text", ["", "h:", "h:0", "h:65536", "h:x", "fd00::5", "[fd00::5", "h h"])
def test_portal_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        names.portal(text)


@given(st.text(max_size=40))
def test_portal_in_its_stored_form_is_a_portal_again(text: str) -> None:
    try:
        normal = names.portal(text)
    except Invalid:
        return
    assert names.portal(normal) == normal


@given(st.text(max_size=40))
def test_iscsi_name_in_its_stored_form_is_a_name_again(text: str) -> None:
    try:
        normal = names.iscsi_name("iqn.2003-01.com.example:" + text)
    except Invalid:
        return
    assert names.iscsi_name(normal) == normal


def test_device_is_backend_and_lun() -> None:
    assert names.device("sd1/7") == DeviceId("sd1", 7)
    for text in ("sd1", "sd1/", "/7", "sd1/x", "sd1/-1"):
        with pytest.raises(Invalid):
            names.device(text)


def test_address_of_a_connection_is_written_as_a_portal() -> None:
    assert names.socket_address(("10.0.0.5", 3260)) == "10.0.0.5:3260"
    assert names.socket_address(("fd00::5", 3260)) == "[fd00::5]:3260"
