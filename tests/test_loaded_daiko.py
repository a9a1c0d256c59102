"""A `daiko` that is forked is what one that is started would be."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

import loaded_daiko
from processes import Daiko, is_forked, run_with_input

ELSEWHERE = "unix:/nobody/listens/here"


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [
        pytest.param(["--version"], "80", id="done"),
        pytest.param(["volume", "ls", "--json"], "80", id="unreachable"),
        pytest.param(["volume", "no-such-verb"], "60", id="narrow"),
        pytest.param(["volume", "no-such-verb"], "120", id="wide"),
        pytest.param(["serve", "--iqn", "wrong"], "80", id="serve"),
    ],
)
def test_says_and_returns_what_the_command_does(arguments: list[str], columns: str) -> None:
    environment = {**os.environ, "DAIKO_API": ELSEWHERE, "COLUMNS": columns}
    command = [*loaded_daiko.COMMAND, *arguments]
    assert is_forked(command, environment)
    forked = run_with_input("", *command, env=environment)
    started = subprocess.run(
        command, input="", capture_output=True, text=True, env=environment, check=False
    )
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_is_a_process_that_signals_end(tmp_path: Path, number: int, status: int) -> None:
    with Daiko(tmp_path, mode="local") as daiko:
        assert isinstance(daiko.popen, loaded_daiko.Popen)
        assert Path(f"/proc/{daiko.pid}").exists()
        assert daiko.popen.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            daiko.popen.wait(0.01)
        daiko.popen.send_signal(number)
        assert daiko.popen.wait(60) == status
        assert not Path(f"/proc/{daiko.pid}").exists()


def test_what_the_interpreter_reads_at_its_start_is_not_forked() -> None:
    command = [*loaded_daiko.COMMAND, "--version"]
    for name in ("PYTHONPATH", "LD_PRELOAD", "PYTHONDEVMODE"):
        assert not is_forked(command, {**os.environ, name: "another"})
    assert not is_forked(["prlimit", *command], os.environ)
