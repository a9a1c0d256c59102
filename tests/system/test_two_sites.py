"""Two first controllers as processes of their own, by the command line: named, killed, back."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import PATIENCE, Daiko

SECRETS = {"tokyo": "the secret of tokyo", "osaka": "the secret of osaka"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites")
    for name, secret in SECRETS.items():
        (folder / f"{name}.secret").write_text(f"{secret}\n")
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> Iterator[tuple[Daiko, Daiko]]:
    made = [Daiko(folder, name=name, store=folder / name) for name in ("tokyo", "osaka")]
    with made[0] as tokyo, made[1] as osaka:
        for here, there in ((tokyo, osaka), (osaka, tokyo)):
            done = cli(here, "site", "add", there.name, f"iscsi://{there.portal}/{there.iqn}",
                       *by_chap(folder, here.name, there.name))  # fmt: skip
            assert done.returncode == 0, done.stderr
        yield tokyo, osaka


def by_chap(folder: Path, own: str, theirs: str) -> list[str]:
    return [
        "--chap-user", own, "--chap-secret-file", str(folder / f"{own}.secret"),
        "--peer-user", theirs, "--peer-secret-file", str(folder / f"{theirs}.secret"),
    ]  # fmt: skip


def cli(daiko: Daiko, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*daiko.program(), "--api", daiko.api, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def shown(daiko: Daiko, verb: str = "show") -> dict[str, Any]:
    other = "osaka" if daiko.name == "tokyo" else "tokyo"
    done = cli(daiko, "site", verb, other, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def until(daiko: Daiko, state: str) -> dict[str, Any]:
    """What is shown, once the link is in this state."""
    deadline = time.monotonic() + PATIENCE
    while (found := shown(daiko))["state"] != state:
        assert time.monotonic() < deadline, found
    return found


def test_link_is_up_in_both_directions(both: tuple[Daiko, Daiko]) -> None:
    for here in both:
        found = shown(here, "probe")
        assert found["state"] == "up"
        assert found["protocol"] == "1.2"
        assert len(found["logins"]) == 1
        assert found["chap"]["secret_is_set"]
    listed = cli(both[0], "site", "ls").stdout
    assert "osaka" in listed
    assert "up" in listed


def test_secrets_are_seen_nowhere(both: tuple[Daiko, Daiko]) -> None:
    for here in both:
        said = [
            cli(here, "site", "show", "osaka" if here.name == "tokyo" else "tokyo").stdout,
            cli(here, "export").stdout,
            json.dumps(shown(here)),
            here.log.read_text(),
        ]
        assert not any(secret in text for text in said for secret in SECRETS.values())


def test_site_that_is_killed_is_down_and_comes_back_by_itself(both: tuple[Daiko, Daiko]) -> None:
    tokyo, osaka = both
    osaka.kill()
    down = until(tokyo, "down")
    assert down["detail"]
    assert down["since"] > 0
    assert cli(tokyo, "status").returncode == 0
    osaka.start()
    assert until(tokyo, "up")["software"]
    assert until(osaka, "up")["state"] == "up"


def test_wrong_secret_is_refused_until_it_is_right(both: tuple[Daiko, Daiko], folder: Path) -> None:
    tokyo, osaka = both
    wrong = folder / "wrong.secret"
    wrong.write_text("not the secret at all")
    user = ("site", "set", "osaka", "--chap-user", "tokyo", "--chap-secret-file")
    assert cli(tokyo, *user, str(wrong)).returncode == 0
    osaka.restart()
    refused = until(tokyo, "refused")
    assert "authentication failure" in refused["detail"]
    done = cli(tokyo, *user, str(folder / "tokyo.secret"))
    assert "up" in done.stdout
    assert until(tokyo, "up")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", "nara", "iscsi://h/iqn.2026-11.a:b"), 2, "--without-chap"),
        (("add", "nara", "h", "--without-chap"), 2, "iscsi://HOST:PORT/IQN"),
        (("add", "osaka", "iscsi://h/iqn.2026-11.a:b", "--without-chap"), 4, "already"),
        (("add", "nara", "iscsi://h/iqn.2026-11.a:b", "--peer-user", "x"), 2, "--peer-secret-file"),
        (("show", "nara"), 3, "no site is called"),
        (("probe", "nara"), 3, "no site is called"),
        (("rm", "nara"), 3, "no site is called"),
        (("set", "osaka"), 2, "nothing is to be changed"),
        (("set", "nara", "--without-chap"), 3, "no site is called"),
        (("set", "osaka", "--portal", "a:b:c"), 2, "not a portal"),
        (("set", "osaka", "--chap-user", "x", "--chap-secret", "plain"), 2, "takes no secret"),
    ],
)
def test_request_that_is_not_right_says_so_and_has_its_exit_code(
    both: tuple[Daiko, Daiko], arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = cli(both[0], "site", *arguments)
    assert done.returncode == code
    assert words in " ".join(done.stderr.split())


def test_site_is_forgotten(both: tuple[Daiko, Daiko]) -> None:
    tokyo, osaka = both
    assert cli(tokyo, "site", "rm", "osaka").returncode == 0
    assert cli(tokyo, "site", "ls", "--json").stdout.strip() == "[]"
    assert "authorization failure" in until(osaka, "refused")["detail"]
