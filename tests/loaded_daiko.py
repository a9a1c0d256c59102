"""`daiko` as a process of its own whose modules are loaded already.

To load them takes three quarters of a command's time, and tests start hundreds. So one process for
each worker of the tests loads them and waits; each `daiko` is a fork of it, which becomes what
`python -m daiko` would be: with its own arguments, environment, folder, descriptors and end. What
reads the environment when it is loaded (`daiko.cli`) is loaded in the fork.

    with Popen(["volume", "ls"], environment, stdout=file) as process:
        process.wait(60)

Run as a program, this file is the process that is forked.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

COMMAND = [sys.executable, "-m", "daiko"]
"""What it stands for."""
LOADED = (
    "daiko.daemon", "daiko.api.address", "httpx", "pydantic.json_schema", "rich.console",
    "rich.markdown", "rich.progress", "rich.table", "rich.traceback", "typer.main",
    "typer.rich_utils", "typer._adapters",
)  # fmt: skip
LARGEST = 1 << 20
"""Bytes of a request."""


def stands_for(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a fork would be the same as this command: what the interpreter and the loader read
    at their own start is as it is here."""
    if list(command[:3]) != COMMAND:
        return False
    return _read_at_start(environment) == _read_at_start(os.environ)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    ours = ("PYTHON", "LD_", "MALLOC_", "GLIBC_", "LC_", "LANG")
    return {name: value for name, value in environment.items() if name.startswith(ours)}


class Popen:
    """`daiko ARGUMENTS`, started; as far as it goes as `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        *,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes],
    ) -> None:
        """Without `stdin` it reads nothing; without `stdout`, what it prints comes by `stdout`."""
        self.args = [*COMMAND, *arguments]
        self.returncode: int | None = None
        self.stdout: IO[bytes] | None = None
        self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as stack:
            stack.enter_context(status)
            given = stack.enter_context(Path(os.devnull).open("rb")) if stdin is None else stdin
            if stdout is None:
                read, write = os.pipe()
                self.stdout = os.fdopen(read, "rb", buffering=0)
                stdout = stack.enter_context(os.fdopen(write, "wb"))
            descriptors = [each.fileno() for each in (given, stdout, stderr, status)]
            request = [list(arguments), dict(environment), str(Path.cwd())]
            _Loaded.own().ask(json.dumps(request).encode(), descriptors)
        said = self._status.recv(64)
        if not said:
            raise RuntimeError("the process that is forked has gone")
        self.pid = int(said)

    def poll(self) -> int | None:
        """The exit status (-N: of signal N), None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, at its end. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self._status.settimeout(timeout)
            try:
                said = self._status.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._status.close()
            if not said:
                raise RuntimeError(f"nobody waited for {self.args}")
            self.returncode = int(said)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Loaded:
    """The process that is forked; the first who needs it starts it."""

    _own: _Loaded | None = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        self.maker = os.getpid()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LARGEST)
        with theirs:
            # It ends when this socket does, so nobody need stop it.
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    @classmethod
    def own(cls) -> _Loaded:
        """The one of this process."""
        with cls._lock:
            if cls._own is None or cls._own.maker != os.getpid():
                cls._own = cls()
            return cls._own

    def ask(self, request: bytes, descriptors: Sequence[int]) -> None:
        socket.send_fds(self._requests, [request], list(descriptors))


# --- the process that is forked ---------------------------------------------------------------


def _wait_for_a_request(requests: socket.socket) -> None:
    """Return in a fork that a request has made, which then is to become `daiko`."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody need wait for the forks
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 4)
        if not request:
            os._exit(0)
        if not os.fork():
            break
        for descriptor in descriptors:
            os.close(descriptor)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *standard, status = descriptors
    pid = os.fork()
    if pid:
        _tell_its_end(pid, socket.socket(fileno=status))
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    os.closerange(3, max(*descriptors, requests.detach()) + 1)
    arguments, environment, folder = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments


def _tell_its_end(pid: int, status: socket.socket) -> None:
    """Say its number, wait for it, and say its exit status."""
    # What it prints to must end with it, not with the one who waits.
    for descriptor in os.listdir("/proc/self/fd"):
        if int(descriptor) != status.fileno():
            with contextlib.suppress(OSError):
                os.close(int(descriptor))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError):  # the one who asked may have gone
        status.send(str(pid).encode())
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        status.send(str(ended).encode())
    os._exit(0)


def _main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    sys.path[0] = os.getcwd()  # as `python -m` has it
    for module in LOADED:
        __import__(module)
    assert threading.active_count() == 1, "a fork would miss the other threads"
    gc.collect()
    gc.freeze()
    _wait_for_a_request(requests)
    runpy.run_module("daiko", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
