"""Real processes for tests, the demo and the benchmarks: Daiko, tgt, and foreign hosts.

Every process is started with its output in a file of its own and watched for the line or the
answer that says it is ready; nothing here sleeps for a fixed time in the hope that something has
happened. All of them listen on loopback, on ports that were free a moment ago. What fails
raises `ProcessFailed` with the end of the log in its message. `with` stops them.

    with Daiko(folder, image, lun={1: [other]}) as daiko:
        qemu_io(daiko.url(0), "write -P 7 0 64k", "read -P 7 0 64k")
        daiko.restart()
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Any, Self

import httpx

import loaded_daiko

PATIENCE = 60.0
"""Seconds after which a process that says nothing has failed. No test waits for it to pass."""

READY = "ready"
"""The last line that `daiko serve` prints once everything answers."""

FORKS = False
"""Whether `daiko` is forked from a process that has loaded it (loaded_daiko.py): for tests, which
start it hundreds of times. Demonstrations and benchmarks start it as everybody does."""

_CHOICE = random.SystemRandom()
"""Not the random numbers of the tests, which are the same in every worker."""

_GIVEN: deque[int] = deque(maxlen=2000)
"""Ports that were called free here last: many are used only a while after."""


class ProcessFailed(AssertionError):
    """A process ended, or did not become ready; the message carries the end of its log."""


def free_port() -> int:
    """A TCP port of loopback that nobody uses now, and no other worker of these tests gets, below
    those that the kernel gives to connections: one of these would be taken by the next connection
    of any process."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        port = 0
        if first > 2048:
            port = _CHOICE.randrange(max(1024, first - 20000) + worker, first, workers)
        if port in _GIVEN:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as failure:
                if failure.errno != errno.EADDRINUSE:
                    raise
                continue
            _GIVEN.append(int(probe.getsockname()[1]))
            return _GIVEN[-1]


def image(path: Path, size: int, *, seed: int | None = None) -> Path:
    """A file of `size` bytes: sparse zeros, or pseudo-random bytes that `seed` determines."""
    with path.open("wb") as file:
        if seed is None:
            file.truncate(size)
        else:
            source = random.Random(seed)
            for start in range(0, size, 1 << 20):
                file.write(source.randbytes(min(1 << 20, size - start)))
    return path


class Process:
    """A child process with a log; `start` returns when it is ready."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.log = folder / f"{name}.log"
        self.popen: subprocess.Popen[bytes] | loaded_daiko.Popen | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):  # not where somebody pressed Ctrl-C
            # pytest shows this under "Captured stderr" of the test that failed.
            print(f"--- log of {self.name}\n{self.log_end()}", file=sys.stderr)
        self.stop()

    @property
    def pid(self) -> int:
        assert self.popen is not None, f"{self.name} was not started"
        return self.popen.pid

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def wait_ready(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Start, and wait until it is ready. Raises ProcessFailed."""
        assert self.popen is None, f"{self.name} is running already"
        with self.log.open("ab") as log:
            command, environment = self.command(), self.environment()
            if is_forked(command, environment):
                self.popen = loaded_daiko.Popen(command[3:], environment, stderr=log)
            else:
                self.popen = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                )
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """Ask to stop (SIGTERM) and wait. Returns the exit status; 0 when it was not running."""
        if self.popen is None:
            return 0
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            status = self.popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self.failed("does not stop on SIGTERM") from None
        self._forget()
        return status

    def kill(self) -> None:
        """kill -9, and wait until the kernel has taken its ports and locks back."""
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()
            self._forget()

    def restart(self) -> None:
        self.stop()
        self.start()

    def _forget(self) -> None:
        if self.popen is not None and self.popen.stdout is not None:
            self.popen.stdout.close()
        self.popen = None

    def log_end(self, lines: int = 60) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def log_with(self, words: str) -> str:
        """All of its log, once these words are in it. Raises ProcessFailed when they do not come.

        Nobody waits for the log: what a line tells of may be over before the line is written."""
        deadline = time.monotonic() + PATIENCE
        while words not in (said := self.log.read_text(errors="replace")):
            if time.monotonic() > deadline:
                raise self.failed(f"did not log {words!r}")
            time.sleep(0.01)
        return said

    def failed(self, what: str) -> ProcessFailed:
        return ProcessFailed(f"{self.name} {what}; the end of its log:\n{self.log_end()}")

    def lines_until(self, last: str) -> list[str]:
        """The lines that it prints, up to the one that is `last`."""
        return self._printed_until(f"\n{last}\n".encode())

    def lines_until_match(self, part: str) -> list[str]:
        """The lines that it prints, up to the first that has `part` in it."""
        return self._printed_until(part.encode())

    def _printed_until(self, wanted: bytes) -> list[str]:
        assert self.popen is not None
        assert self.popen.stdout is not None
        descriptor = self.popen.stdout.fileno()
        deadline = time.monotonic() + PATIENCE
        received = b"\n"
        while wanted not in received:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise self.failed(f"did not print {wanted!r}, but {received!r}")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                status = self.popen.wait(PATIENCE)
                raise self.failed(f"ended with status {status} after printing {received!r}")
            received += chunk
        return received.decode().splitlines()[1:]


class Daiko(Process):
    """`daiko serve` as a process of its own.

    `sources` make LUN 0, `lun` the others. Without `store` it is the one-liner with a temporary
    store; with it, the store folder (made when it is not there). More options go in `options` as
    on the command line. Ports and iSCSI name are kept over restarts.
    """

    def __init__(
        self,
        folder: Path,
        *sources: Path | str,
        lun: Mapping[int, Iterable[Path | str]] | None = None,
        name: str = "daiko",
        iqn: str | None = None,
        store: Path | None = None,
        mode: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__(folder, name)
        self.sources = sources
        self.lun = {number: tuple(given) for number, given in (lun or {}).items()}
        self.iqn = iqn or f"iqn.2026-11.com.example:{name}"
        self.port = free_port()
        self.store = store
        self.mode = mode
        self.options = list(options)
        # A Unix socket's path must be short, which a test's folder is not always.
        self.api_port = free_port()
        self.lines: list[str] = []

    @property
    def portal(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """For `daiko --api`, and the base URL of REST."""
        return f"http://127.0.0.1:{self.api_port}"

    def url(self, lun: int = 0) -> str:
        """iscsi://…, as qemu-img and libiscsi's tools take it."""
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"

    def program(self) -> list[str]:
        """The `daiko` command itself."""
        return [sys.executable, "-m", "daiko"]

    def command(self) -> Sequence[str]:
        command = [*self.program(), "serve"]
        command += ["--portal", self.portal, "--iqn", self.iqn, "--api", self.api]
        if self.store is not None:
            command += ["--store", str(self.store)]
        if self.mode is not None:
            command += ["--mode", self.mode]
        for number, sources in self.lun.items():
            for source in sources:
                command += ["--lun", f"{number}={source}"]
        return [*command, *self.options, *map(str, self.sources)]

    def environment(self) -> dict[str, str]:
        # A temporary store that a kill left behind goes with the test's folder.
        return {**os.environ, "TMPDIR": str(self.folder)}

    def wait_ready(self) -> None:
        self.lines = self.lines_until(READY)

    @property
    def urls(self) -> list[str]:
        """The URLs that it printed, one for each LUN."""
        return [line for line in self.lines if line.startswith("iscsi://")]

    def wait_until_connected(self, iqn: str) -> None:
        """Return when the back end with this target is connected. Raises ProcessFailed."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            backends = self.rest("GET", "/v1/backends").raise_for_status().json()
            if any(backend["iqn"] == iqn and backend["connected"] for backend in backends):
                return
            # The API has no event for it; asking is what an administrator would do.
            time.sleep(0.05)
        raise self.failed(f"is not connected to {iqn}")

    def rest(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """One request to its REST API."""
        return httpx.request(method, self.api + path, timeout=PATIENCE, **arguments)

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `daiko ARGUMENTS` against it."""
        environment = {**os.environ, "DAIKO_API": self.api, "COLUMNS": "200"}
        return run(*self.program(), *arguments, check=check, env=environment)


class Tgt(Process):
    """Linux SCSI target framework in user space (`tgtd`): a second controller that can do
    nothing but read and write, and that nobody here wrote."""

    def __init__(
        self,
        folder: Path,
        *files: Path,
        name: str = "tgt",
        iqn: str = "",
        threads: int = 2,
        block_size: int = 512,
    ) -> None:
        super().__init__(folder, name)
        self.threads = threads
        """For each LU."""
        self.files = files
        self.block_size = block_size
        self.port = free_port()
        self.iqn = iqn or f"iqn.2026-11.com.example:{name}"
        # The control socket's path must be short.
        self._sockets = Path(f"/tmp/daiko-tgt-{os.getpid()}-{self.port}")
        self._channel = self.port % 32768

    @property
    def portal(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, lun: int = 1) -> str:
        """LUN 0 of a tgt target is its controller; the disks begin at 1."""
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"

    def command(self) -> Sequence[str]:
        tgtd = shutil.which("tgtd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        assert tgtd is not None, "tgtd is not installed (Debian package tgt)"
        return [
            tgtd,
            "-D",
            "-C",
            str(self._channel),
            "-t",
            str(self.threads),
            "--iscsi",
            f"portal={self.portal}",
        ]

    def environment(self) -> dict[str, str]:
        self._sockets.mkdir(mode=0o700, exist_ok=True)
        return {**os.environ, "TGT_IPC_SOCKET": str(self._sockets / "control")}

    def admin(self, *arguments: str) -> str:
        """Run tgtadm against this daemon."""
        tgtadm = shutil.which("tgtadm", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        assert tgtadm is not None, "tgtadm is not installed (Debian package tgt)"
        done = run(
            tgtadm, "-C", str(self._channel), "--lld", "iscsi", *arguments, env=self.environment()
        )
        return done.stdout

    host = "127.0.0.1"

    def wait_ready(self) -> None:
        wait_for_port(self, self.port, self.host)
        self.admin("--mode", "target", "--op", "new", "--tid", "1", "-T", self.iqn)
        for number, file in enumerate(self.files, 1):
            self.add(number, file)
        self.admin("--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL")

    def add(self, lun: int, file: Path) -> None:
        """Serve `file` as a LUN (from 1)."""
        self.admin(
            *("--mode", "logicalunit", "--op", "new", "--tid", "1"),
            *("--lun", str(lun), "-b", str(file), "--blocksize", str(self.block_size)),
        )

    def stop(self) -> int:
        # tgtd refuses to end on SIGTERM while targets exist, and holds no state of its own.
        self.kill()
        shutil.rmtree(self._sockets, ignore_errors=True)
        return 0


def wait_for_port(process: Process, port: int, host: str = "127.0.0.1") -> None:
    """Return when somebody listens on the loopback port. Raises ProcessFailed when the process
    ends before, or the patience does."""
    assert process.popen is not None
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.popen.poll() is not None:
            raise process.failed(f"ended with status {process.popen.returncode}")
        with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
            return
        # A process that has not begun to listen sends no event that could be waited for.
        time.sleep(0.01)
    raise process.failed(f"does not listen on port {port}")


def run(
    *command: str | Path, check: bool = True, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises ProcessFailed with its output when it fails."""
    done = run_with_input("", *command, env=env)
    if check and done.returncode != 0:
        raise ProcessFailed(
            f"`{shlex.join(str(part) for part in command)}` ended with status {done.returncode}:\n"
            f"{done.stdout}{done.stderr}"
        )
    return done


def run_with_input(
    text: str, *command: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that reads this text to its end, whatever its exit status."""
    words = [str(part) for part in command]
    environment = dict(os.environ if env is None else env)
    if not is_forked(words, environment):
        return subprocess.run(
            words,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE * 2,
            env=environment,
            check=False,
        )
    with TemporaryFile() as given, TemporaryFile() as printed, TemporaryFile() as said:
        given.write(text.encode())
        given.seek(0)
        process = loaded_daiko.Popen(
            words[3:], environment, stdin=given, stdout=printed, stderr=said
        )
        try:
            status = process.wait(PATIENCE * 2)
        except BaseException:
            process.kill()
            raise
        texts = [_whole(file) for file in (printed, said)]
    return subprocess.CompletedProcess(words, status, *texts)


def _whole(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def is_forked(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a process that has loaded `daiko` stands for this command."""
    return FORKS and loaded_daiko.stands_for(command, environment)


def qemu_io(url: str, *commands: str) -> str:
    """Run qemu-io commands on an LU. Raises ProcessFailed when one fails, or when a `read -P`
    finds another pattern, which qemu-io itself reports without an exit status."""
    arguments = [part for command in commands for part in ("-c", command)]
    done = run("qemu-io", "-f", "raw", *arguments, url)
    if "Pattern verification failed" in done.stdout:
        raise ProcessFailed(f"qemu-io {commands}: {done.stdout}")
    return done.stdout
