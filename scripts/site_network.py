"""Two sites and a host, and the links between them, on one machine.

Where network namespaces can be made, each site has one, the host and the administrator have the
one of this process (which is not the machine's: `apart` sees to that), and the bytes of each link
are counted by the kernel at its interface:

    host ── host-tokyo ── tokyo ══ bridge ══ osaka ── host-osaka ── host

The bridge is the link between the sites; cut, both of its ports are down. Everything is gone with
the processes, and has no name outside of them. Elsewhere the sites are two ranges of loopback
addresses, and the link is a relay each way, which counts what passes and can be cut.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from kernel_counters import Traffic
from network_path import NetworkPath

SITES = ("tokyo", "osaka")
KINDS = ("namespaces", "loopback")
_HOLD = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net")
_INSIDE = "DAIKO_DEMO_APART"


def apart(kind: str) -> str:
    """Go on in a network of this process's own, where that is possible and `kind` does not say
    otherwise: the whole program is started again, as the same process. Returns the kind to use.
    Raises SystemExit where namespaces are asked for and cannot be made."""
    if os.environ.get(_INSIDE):
        return "namespaces"
    if kind == "loopback":
        return kind
    # A user that is not root is that in a user namespace of its own, where the machine allows it.
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "-U", "-r", "--net"]
    try:
        done = subprocess.run(
            [
                *command,
                "sh",
                "-c",
                "ip link add name wan0 type bridge && ip link add name wan1 type veth",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        problem = done.stderr.strip() if done.returncode else ""
    except FileNotFoundError as error:
        problem = str(error)
    if not problem:
        os.environ[_INSIDE] = "yes"
        os.execvp(command[0], [*command, sys.executable, *sys.argv])
    if kind == "namespaces":
        raise SystemExit(f"demo: no network namespaces can be made here: {problem}")
    return "loopback"


class Network(Protocol):
    """Where the processes of the sites run, and what passes between them."""

    description: str
    counted_by: str

    def address(self, site: str, number: int) -> str:
        """Of a controller at a site: from 1."""

    def free_port(self, site: str, number: int) -> int:
        """A port of that address, which no other controller of either site has."""

    def within(self, site: str) -> list[str]:
        """The words before a command that run it at a site."""

    def connect(self, portals: dict[str, tuple[str, int]]) -> dict[str, str]:
        """Make the link between the first controllers at these portals, by site; returns the
        portal at which each is reached from the other site."""

    def cut(self) -> None:
        """Nothing passes the link between the sites any more."""

    def mend(self) -> None:
        """It passes again."""

    def links(self) -> dict[str, Traffic]:
        """What has passed each link until now; sent is out of the first place of its name."""


class Namespaces:
    """Each site in a network namespace, held by a process that does nothing."""

    description = "each site in a network namespace, the sites joined by a bridge"
    counted_by = "the kernel at the interfaces of the sites (with the headers of TCP and IP)"

    def __init__(self, stack: ExitStack) -> None:
        self._holders: dict[str, int] = {}
        self._ports = 3260
        _ip("link set dev lo up")
        _ip("link add name wan type bridge")
        _ip("link set dev wan up")
        for number, site in enumerate(SITES, 1):
            self._add(stack, site, number)
        for number, site in enumerate(SITES, 1):
            other = 3 - number
            self._ip_at(site, f"route add 10.{other}.0.0/24 dev wan src 10.{number}.0.1")

    def _add(self, stack: ExitStack, site: str, number: int) -> None:
        # (it ends with this process, however that ends)
        holder = stack.enter_context(
            subprocess.Popen(
                [*_HOLD, "sh", "-c", "echo made; exec sleep infinity"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        )
        stack.callback(holder.kill)
        assert holder.stdout is not None
        if holder.stdout.readline() != b"made\n":
            raise SystemExit(f"demo: the network namespace of {site} could not be made")
        self._holders[site] = holder.pid
        self._ip_at(site, "link set dev lo up")
        _ip(f"link add name wan-{site} type veth peer name wan netns {holder.pid}")
        _ip(f"link set dev wan-{site} master wan up")
        _ip(f"link add name host-{site} type veth peer name host netns {holder.pid}")
        _ip(f"addr add 10.9.{number}.1/32 dev host-{site}")
        _ip(f"link set dev host-{site} up")
        for last in (1, 2, 3):
            # Its controllers' addresses: whichever interface a packet comes by.
            self._ip_at(site, f"addr add 10.{number}.0.{last}/32 dev lo")
        for end in ("wan", "host"):
            self._ip_at(site, f"link set dev {end} up")
        self._ip_at(site, f"route add 10.9.{number}.1 dev host src 10.{number}.0.1")
        _ip(f"route add 10.{number}.0.0/24 dev host-{site} src 10.9.{number}.1")

    def address(self, site: str, number: int) -> str:
        return f"10.{1 + SITES.index(site)}.0.{number}"

    def free_port(self, site: str, number: int) -> int:
        self._ports += 1
        return self._ports - 1

    def within(self, site: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._holders[site]}/ns/net"]

    def connect(self, portals: dict[str, tuple[str, int]]) -> dict[str, str]:
        return {site: f"{host}:{port}" for site, (host, port) in portals.items()}

    def cut(self) -> None:
        for site in SITES:
            _ip(f"link set dev wan-{site} down")

    def mend(self) -> None:
        for site in SITES:
            _ip(f"link set dev wan-{site} up")

    def links(self) -> dict[str, Traffic]:
        at = {site: _interfaces(pid) for site, pid in self._holders.items()}
        found = {"tokyo - osaka": at["tokyo"]["wan"]}
        for site in SITES:
            ours = at[site]["host"]
            found[f"host - {site}"] = Traffic(ours.received, ours.sent)
        # What is sent over the loopback of a site is received there: counted once.
        for site in SITES:
            found[f"within {site}"] = Traffic(at[site]["lo"].sent, 0)
        return found

    def _ip_at(self, site: str, words: str) -> None:
        _run([*self.within(site), "ip", *words.split()])


class Loopback:
    """Each site on addresses of its own; the link is a relay to each first controller."""

    description = "each site on a range of loopback addresses (127.1.0.x, 127.2.0.x)"
    counted_by = (
        "the relays that stand for the link between the first controllers (payload of TCP; what "
        "second controllers send straight to one another does not pass there)"
    )

    def __init__(self, stack: ExitStack) -> None:
        self._ports: set[int] = set()
        self._paths: dict[str, NetworkPath] = {}
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="relays")
        thread.start()
        stack.callback(self._loop.close)
        stack.callback(thread.join)
        stack.callback(self._loop.call_soon_threadsafe, self._loop.stop)

    def address(self, site: str, number: int) -> str:
        return f"127.{1 + SITES.index(site)}.0.{number}"

    def free_port(self, site: str, number: int) -> int:
        while True:
            with socket.socket() as probe:
                probe.bind((self.address(site, number), 0))
                port = int(probe.getsockname()[1])
            if port not in self._ports:
                self._ports.add(port)
                return port

    def within(self, site: str) -> list[str]:
        return []

    def connect(self, portals: dict[str, tuple[str, int]]) -> dict[str, str]:
        for site, (host, port) in portals.items():
            self._paths[site] = NetworkPath(port, host=host, port=self.free_port(site, 1))
        self.mend()
        return {site: path.portal for site, path in self._paths.items()}

    def cut(self) -> None:
        async def cut() -> None:
            for path in self._paths.values():
                path.cut()

        self._do(cut())

    def mend(self) -> None:
        async def mend() -> None:
            for path in self._paths.values():
                await path.open()

        self._do(mend())

    def links(self) -> dict[str, Traffic]:
        ours, theirs = self._paths["osaka"], self._paths["tokyo"]
        return {"tokyo - osaka": Traffic(ours.sent + theirs.received, ours.received + theirs.sent)}

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


def network(kind: str, stack: ExitStack) -> Network:
    """Raises SystemExit when it cannot be made."""
    return Namespaces(stack) if kind == "namespaces" else Loopback(stack)


def _interfaces(pid: int) -> dict[str, Traffic]:
    """Bytes at each interface of the network namespace that a process is in."""
    found = {}
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]:
        name, _, numbers = line.partition(":")
        columns = numbers.split()
        found[name.strip()] = Traffic(sent=int(columns[8]), received=int(columns[0]))
    return found


def _ip(words: str) -> None:
    _run(["ip", *words.split()])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"demo: `{' '.join(command)}` failed: {done.stderr.strip()}")
