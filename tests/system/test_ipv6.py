"""IPv6 everywhere that IPv4 is: portals, discovery, back ends; by tools of others."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from processes import Daiko, Tgt, image, qemu_io, run

MIB = 1 << 20


class Daiko6(Daiko):
    """At ::1 as well as at 127.0.0.1, on the same port."""

    @property
    def portal6(self) -> str:
        return f"[::1]:{self.port}"

    @property
    def url6(self) -> str:
        return f"iscsi://{self.portal6}/{self.iqn}/0"


class Tgt6(Tgt):
    """At ::1 only."""

    host = "::1"

    @property
    def portal(self) -> str:
        return f"[::1]:{self.port}"


def dual(folder: Path, *sources: Path | str, name: str, **options: object) -> Daiko6:
    daiko = Daiko6(folder, *sources, name=name, **options)  # type: ignore[arg-type]
    daiko.options += ["--portal", daiko.portal6]
    return daiko


def test_hosts_reach_a_controller_by_both_and_each_is_told_what_it_can_use(tmp_path: Path) -> None:
    with dual(tmp_path, image(tmp_path / "a", 8 * MIB), name="both", mode="local") as daiko:
        qemu_io(daiko.url6, "write -P 6 0 1M", "read -P 6 0 1M")
        qemu_io(daiko.url(0), "read -P 6 0 1M")
        for portal in (daiko.portal, daiko.portal6):
            listed = run("iscsi-ls", f"iscsi://{portal}").stdout
            assert daiko.iqn in listed
            assert daiko.portal6 in listed
            assert daiko.portal in listed
        shown = daiko.rest("GET", "/v1/system").json()
        assert set(shown["portals"]) == {daiko.portal, daiko.portal6}


def test_wildcard_portal_tells_the_address_that_was_reached(tmp_path: Path) -> None:
    daiko = Daiko(tmp_path, image(tmp_path / "a", MIB), name="all", mode="local")
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        port = probe.getsockname()[1]
    daiko.options += ["--portal", f"[::]:{port}"]
    with daiko:
        assert f"[::1]:{port}" in run("iscsi-ls", f"iscsi://[::1]:{port}").stdout


def test_back_end_is_found_and_attached_by_ipv6(tmp_path: Path) -> None:
    with (
        dual(tmp_path, image(tmp_path / "a", 8 * MIB), name="second", mode="local") as second,
        Daiko(tmp_path, store=tmp_path / "store", name="first") as first,
    ):
        # The portal alone: its target is asked for by a discovery over IPv6.
        first.cli("backend", "add", "sd", f"iscsi://{second.portal6}", "--portal", second.portal)
        shown = json.loads(first.cli("backend", "show", "sd", "--json").stdout)
        assert shown["detail"] == f"through {second.portal6}"
        assert shown["portals"] == [second.portal6, second.portal]
        first.cli("volume", "add", "v", "--image", "sd/0")
        first.cli("host", "add", "any", "-i", "*", "--lun", "0=v")
        qemu_io(first.url(0), "write -P 9 0 64k", "read -P 9 0 64k")
        exported = first.cli("export").stdout
        assert second.portal6 in exported
        run(*first.program(), "--api", first.api, "apply", _file(tmp_path, exported))


def test_tgt_is_attached_by_ipv6(tmp_path: Path) -> None:
    with Tgt6(tmp_path, image(tmp_path / "old", 8 * MIB), name="tgt6") as tgt:
        first = Daiko(tmp_path, tgt.url(1), name="over-tgt6")
        with first:
            qemu_io(first.url(0), "write -P 3 1M 64k", "read -P 3 1M 64k")


def _file(folder: Path, text: str) -> Path:
    path = folder / "system.toml"
    path.write_text(text)
    return path
