"""CHAP against software that nobody here wrote: libiscsi, QEMU and tgt; and Daiko to Daiko."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from processes import Daiko, Tgt, image, run

MIB = 1 << 20
HOST = "iqn.2026-11.com.example:alice"
USER, SECRET = "alice", "alice's secret!"
TARGET_USER, TARGET_SECRET = "array", "the array's own"


@dataclass
class Site:
    """A controller that asks alice for CHAP, and nobody for discovery."""

    folder: Path
    daiko: Daiko

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text + "\n")
        return str(path)

    def options(self, secret: str = SECRET, target: str = TARGET_SECRET) -> list[str]:
        return [
            *("--user", USER, "--secret-file", self.file("secret", secret)),
            *("--mutual-user", TARGET_USER),
            *("--mutual-secret-file", self.file("mutual", target)),
        ]

    def url(self, login: str = "", query: str = "") -> str:
        return self.daiko.url().replace("://", f"://{login}@" if login else "://") + query

    def inquiry(self, login: str = "", query: str = "") -> CompletedProcess[str]:
        return run("iscsi-inq", "-i", HOST, self.url(login, query), check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("chap")
    disk = image(folder / "disk.img", 8 * MIB)
    with Daiko(folder, mode="local", store=folder / "store", name="asks") as daiko:
        site = Site(folder, daiko)
        daiko.cli("backend", "add", "disk", str(disk))
        daiko.cli("volume", "add", "alpha", "--image", "disk/0")
        daiko.cli("host", "add", "alice", "-i", HOST, "--lun", "0=alpha")
        daiko.cli("host", "set-chap", "alice", *site.options())
        yield site


def test_libiscsi_gets_in_by_its_secret_only(site: Site) -> None:
    assert "Peripheral Device Type:DIRECT_ACCESS" in site.inquiry(f"{USER}%{SECRET}").stdout
    for login in ("", f"{USER}%another secret", f"bob%{SECRET}"):
        refused = site.inquiry(login)
        assert refused.returncode != 0
        assert "Authentication" in refused.stdout + refused.stderr
    log = site.daiko.log_with("an unknown CHAP user")
    assert "a wrong CHAP secret" in log
    assert SECRET not in log
    assert TARGET_SECRET not in log


def test_libiscsi_sees_that_the_target_is_the_right_one(site: Site) -> None:
    query = f"?target_user={TARGET_USER}&target_password="
    assert site.inquiry(f"{USER}%{SECRET}", query + TARGET_SECRET).returncode == 0
    assert site.inquiry(f"{USER}%{SECRET}", query + "some other one").returncode != 0


def test_qemu_reads_and_writes_by_chap(site: Site) -> None:
    run(
        "qemu-io", "--object", f"secret,id=key,data={SECRET}", "--image-opts",
        "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k",
        f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={site.daiko.portal},"
        f"file.target={site.daiko.iqn},file.lun=0,file.user={USER},file.password-secret=key,"
        f"file.initiator-name={HOST}",
    )  # fmt: skip


def test_discovery_asks_once_it_is_told_to(site: Site) -> None:
    portal = f"iscsi://{site.daiko.portal}"
    by_user = f"iscsi://{USER}%{SECRET}@{site.daiko.portal}"
    by_finder = f"iscsi://finder%a secret for all@{site.daiko.portal}"

    def found(url: str) -> bool:
        return site.daiko.iqn in run("iscsi-ls", "-i", HOST, url, check=False).stdout

    assert found(portal)
    site.daiko.cli(
        "discovery", "set-chap", "--user", "finder",
        "--secret-file", site.file("finder", "a secret for all"),
    )  # fmt: skip
    try:
        assert not found(portal)
        assert found(by_finder)
        assert found(by_user), "a host may discover by its own user"
        assert "finder" in site.daiko.cli("discovery", "show").stdout
    finally:
        site.daiko.cli("discovery", "clear-chap")
    assert found(portal)


def test_secret_is_not_taken_from_the_command_line(site: Site) -> None:
    refused = site.daiko.cli(
        "host", "set-chap", "alice", "--user", USER, "--secret", SECRET, check=False
    )
    assert refused.returncode == 2
    assert "others could read it" in refused.stderr
    assert SECRET not in refused.stderr + refused.stdout
    refused = site.daiko.cli("host", "set-chap", "alice", "--user", USER, check=False)
    assert refused.returncode == 2


def test_everything_survives_a_restart_and_nothing_is_shown(site: Site) -> None:
    exported = site.daiko.cli("export").stdout
    assert f'user = "{USER}"' in exported
    shown = json.loads(site.daiko.cli("host", "show", "alice", "--json").stdout)
    assert shown["chap"]["secret_is_set"] is True
    assert "alice" in site.daiko.cli("host", "show", "alice").stdout
    for text in (exported, json.dumps(shown)):
        assert SECRET not in text
        assert TARGET_SECRET not in text
    site.daiko.restart()
    assert site.inquiry(f"{USER}%{SECRET}").returncode == 0
    assert site.inquiry().returncode != 0


def test_daiko_attaches_a_daiko_by_mutual_chap_and_changes_its_secret(
    site: Site, tmp_path: Path
) -> None:
    first = Daiko(tmp_path, store=tmp_path / "store", name="first")
    first.options += ["--initiator-iqn", HOST]
    address = f"iscsi://{site.daiko.portal}/{site.daiko.iqn}"
    login = [
        *("--chap-user", USER, "--chap-secret-file", site.file("secret", SECRET)),
        *("--mutual-user", TARGET_USER),
    ]
    right = ["--mutual-secret-file", site.file("mutual", TARGET_SECRET)]
    wrong = ["--mutual-secret-file", site.file("wrong", "a false array's")]
    with first:
        refused = first.cli("backend", "add", "sd", address, check=False)
        assert refused.returncode == 5
        assert "authentication failure" in refused.stderr
        refused = first.cli("backend", "add", "sd", address, *login, *wrong, check=False)
        assert "did not prove" in refused.stderr
        first.cli("backend", "add", "sd", address, *login, *right)
        first.cli("volume", "add", "v", "--image", "sd/0")
        # The secret is changed at the target first, then here; the session goes on all the time.
        site.daiko.cli("host", "set-chap", "alice", *site.options(secret="alice's second!"))
        try:
            change = ["backend", "set-chap", "sd", "--user", USER, "--mutual-user", TARGET_USER]
            change += right
            refused = first.cli(
                *change, "--secret-file", site.file("third", "alice's third!!"), check=False
            )
            assert refused.returncode == 5
            first.cli(*change, "--secret-file", site.file("second", "alice's second!"))
            site.daiko.restart()
            first.wait_until_connected(site.daiko.iqn)
            first.restart()
            first.wait_until_connected(site.daiko.iqn)
        finally:
            site.daiko.cli("host", "set-chap", "alice", *site.options())
        for text in (first.log.read_text(), first.cli("export").stdout):
            assert "alice's s" not in text
            assert TARGET_SECRET not in text


def test_daiko_attaches_a_tgt_by_chap(tmp_path: Path) -> None:
    with Tgt(tmp_path, image(tmp_path / "old.img", 8 * MIB), name="chap-tgt") as tgt:
        account = ("--mode", "account", "--op")
        tgt.admin(*account, "new", "--user", USER, "--password", SECRET)
        tgt.admin(*account, "new", "--user", TARGET_USER, "--password", TARGET_SECRET)
        tgt.admin(*account, "bind", "--tid", "1", "--user", USER)
        tgt.admin(*account, "bind", "--tid", "1", "--user", TARGET_USER, "--outgoing")
        with Daiko(tmp_path, store=tmp_path / "store", name="over-tgt") as daiko:
            secret, mutual = tmp_path / "secret", tmp_path / "mutual"
            secret.write_text(SECRET)
            mutual.write_text(TARGET_SECRET)
            address = f"iscsi://{tgt.portal}/{tgt.iqn}"
            refused = daiko.cli("backend", "add", "old", address, check=False)
            assert refused.returncode == 5
            daiko.cli(
                "backend", "add", "old", address, "--chap-user", USER,
                "--chap-secret-file", str(secret), "--mutual-user", TARGET_USER,
                "--mutual-secret-file", str(mutual),
            )  # fmt: skip
            shown = json.loads(daiko.cli("backend", "show", "old", "--json").stdout)
            assert shown["connected"]
            assert shown["chap"]["mutual_user"] == TARGET_USER
            daiko.cli("backend", "set-chap", "old", "--user", USER, "--secret-file", str(secret))
            daiko.restart()
            daiko.wait_until_connected(tgt.iqn)
