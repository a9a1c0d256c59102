"""The notation of API addresses, and their default."""

from __future__ import annotations

import os

import pytest

from daiko.api.address import ApiAddress, default_address


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        pytest.param(
            "unix:/run/x.sock", ApiAddress(path="/run/x.sock"), "unix:/run/x.sock", id="unix"
        ),
        pytest.param(
            "unix:///run/x.sock", ApiAddress(path="/run/x.sock"), "unix:/run/x.sock", id="unix-url"
        ),
        pytest.param(
            "/run/x.sock", ApiAddress(path="/run/x.sock"), "unix:/run/x.sock", id="absolute-path"
        ),
        pytest.param(
            "unix:x.sock", ApiAddress(path="x.sock"), "unix:x.sock", id="unix-relative-path"
        ),
        pytest.param(
            "http://127.0.0.1:8080",
            ApiAddress(host="127.0.0.1", port=8080),
            "http://127.0.0.1:8080",
            id="http",
        ),
        pytest.param(
            "http://127.0.0.1:8080/",
            ApiAddress(host="127.0.0.1", port=8080),
            "http://127.0.0.1:8080",
            id="http-with-slash",
        ),
        pytest.param(
            "array1:80", ApiAddress(host="array1", port=80), "http://array1:80", id="host-and-port"
        ),
        pytest.param(
            "[::1]:80", ApiAddress(host="::1", port=80), "http://[::1]:80", id="ipv6-in-brackets"
        ),
    ],
)
def test_address_written_in_any_form_is_understood(
    text: str, address: ApiAddress, written: str
) -> None:
    assert ApiAddress.parse(text) == address
    assert str(address) == written
    assert ApiAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "unix:", "host", "http://host", "ftp://host:1", "host:port", "host:99999", "http://h:1/x"],
)
def test_address_that_names_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        ApiAddress.parse(text)


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("unix:/run/x.sock", True),
        ("127.0.0.1:80", True),
        ("127.8.9.1:80", True),
        ("[::1]:80", True),
        ("localhost:80", True),
        ("0.0.0.0:80", False),
        ("[::]:80", False),
        ("10.0.0.1:80", False),
        ("array1:80", False),
    ],
)
def test_address_is_local_only_where_no_other_machine_can_reach_it(text: str, local: bool) -> None:
    assert ApiAddress.parse(text).is_local is local


def test_default_address_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert str(default_address()) == "unix:/run/daiko/api.sock"
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert str(default_address()) == "unix:/run/user/1000/daiko/api.sock"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(default_address()) == "unix:/tmp/daiko-1000/api.sock"
