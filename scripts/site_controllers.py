"""The controllers of two sites: at each a first controller, a Daiko, and a tgt or LIO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import httpx

from demo_console import BLOCK, MIB
from lab_peers import Lio
from processes import PATIENCE, Daiko, Tgt, image
from site_network import SITES, Network

LOG = "log"
LOG_SIZE = 8 * MIB
VOLUMES = (LOG, "data")
"""LUN 0 and LUN 1 of each first controller."""
SHARES = {"tokyo": 5, "osaka": 4}
"""How many eighths of each volume lie on the Daiko; the rest is on the tgt, or LIO. So a part of
each is from Daiko to Daiko, a part from Daiko to that, and a part from that to that."""


class SiteDaiko(Daiko):
    """A Daiko in the network of a site; its API is a Unix socket, which no network bounds."""

    def __init__(
        self,
        net: Network,
        site: str,
        number: int,
        folder: Path,
        *sources: Path,
        sockets: Path,
        **given: Any,
    ) -> None:
        super().__init__(folder, *sources, **given)
        self._sockets = sockets
        self.host = net.address(site, number)
        self.port = net.free_port(site, number)
        self._within = net.within(site)

    @property
    def portal(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def api(self) -> str:
        return f"unix:{self._sockets / self.name}.sock"

    def command(self) -> Sequence[str]:
        return [*self._within, *super().command()]

    def rest(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        transport = httpx.HTTPTransport(uds=self.api.removeprefix("unix:"))
        with httpx.Client(transport=transport, base_url="http://daiko") as client:
            return client.request(method, path, timeout=PATIENCE, **arguments)


class SiteTgt(Tgt):
    """A tgt in the network of a site."""

    lun = 1

    def __init__(
        self, net: Network, site: str, number: int, folder: Path, *files: Path, **given: Any
    ) -> None:
        super().__init__(folder, *files, **given)
        self.host = net.address(site, number)
        self.port = net.free_port(site, number)
        self._within = net.within(site)

    @property
    def portal(self) -> str:
        return f"{self.host}:{self.port}"

    def command(self) -> Sequence[str]:
        return [*self._within, *super().command()]


class SiteLio(Lio):
    """The Linux kernel's target, in a guest in the network of a site: only that site reaches it."""

    lun = 0

    def __init__(self, net: Network, site: str, size: int) -> None:
        """`size`: of its LU, in bytes."""
        super().__init__(luns=1, mib=-(-size // MIB), within=net.within(site))
        self._is_up = False

    def start(self) -> None:
        """Boot it; returns when it answers."""
        self.__enter__()
        self._is_up = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_up:
            super().__exit__(kind, error, trace)


@dataclass
class Site:
    name: str
    first: SiteDaiko
    sd: SiteDaiko
    old: SiteTgt | SiteLio
    sizes: dict[str, int]
    """Bytes of each volume."""
    portal: str
    """At which the other site reaches the first controller."""

    @property
    def ports(self) -> dict[int, str]:
        """What is found at each port of this site."""
        return {
            int(self.portal.rpartition(":")[2]): self.name,
            self.sd.port: self.sd.name,
            self.old.port: self.old.name,
        }

    def get(self, path: str) -> Any:
        """What the first controller's API says."""
        return self.first.rest("GET", f"/v1/{path}").raise_for_status().json()

    def url(self, volume: str) -> str:
        """As hosts take it."""
        return self.first.url(VOLUMES.index(volume))


def start(
    folder: Path, net: Network, size: int, stack: ExitStack, *, lio: bool
) -> tuple[Site, Site]:
    """Start all processes of both sites. `size`: of the volume `data`, in bytes. `lio`: with LIO
    where else there is a tgt."""
    sizes = {LOG: LOG_SIZE, "data": size}
    # Not in `folder`: the path of a socket has at most 107 bytes.
    short = TemporaryDirectory(prefix="daiko-demo-", dir="/tmp")
    sockets = Path(stack.enter_context(short))
    made = []
    for name in SITES:
        disk = image(folder / f"sd-{name}.img", sum(shares(name, sizes, "sd")))
        given: dict[str, Any] = {"name": f"sd-{name}", "store": folder / f"sd-{name}"}
        sd = SiteDaiko(net, name, 2, folder, disk, sockets=sockets, mode="local", **given)
        on_old = sum(shares(name, sizes, "old"))
        old: SiteTgt | SiteLio
        if lio:
            old = SiteLio(net, name, on_old)
        else:
            disk = image(folder / f"old-{name}.img", on_old)
            old = SiteTgt(net, name, 3, folder, disk, name=f"old-{name}")
        given = {"name": name, "store": folder / name}
        first = SiteDaiko(net, name, 1, folder, sockets=sockets, **given)
        made.append((name, first, sd, old))
    portals = net.connect({name: (first.host, first.port) for name, first, _, _ in made})
    for processes in zip(*(processes for _, *processes in made), strict=True):
        # The first controllers of both sites at once, and so on.
        with ThreadPoolExecutor(len(made)) as pool:
            list(pool.map(partial(_start, stack), processes))
    tokyo, osaka = (Site(name, *rest, sizes, portals[name]) for name, *rest in made)
    return tokyo, osaka


def _start(stack: ExitStack, process: SiteDaiko | SiteTgt | SiteLio) -> None:
    stack.push(process)
    process.start()


def shares(site: str, sizes: dict[str, int], kind: str) -> list[int]:
    """Bytes of each volume on the Daiko (`sd`) or the tgt or LIO (`old`) of a site."""
    on_sd = [sizes[volume] * SHARES[site] // 8 for volume in VOLUMES]
    if kind == "sd":
        return on_sd
    return [sizes[volume] - share for volume, share in zip(VOLUMES, on_sd, strict=True)]


def attach(tokyo: Site, osaka: Site, ask: Callable[..., None]) -> None:
    """What the administrators of both do once. `ask(site, *words)` runs a command."""
    for here, there in ((tokyo, osaka), (osaka, tokyo)):
        # (lets it name LUs of the other site's controllers in a copy)
        here.sd.cli("host", "allow-copy", "any", there.sd.portal, there.old.portal)
        for process in (here.sd, here.old):
            ask(here, "backend", "add", process.name, f"iscsi://{process.portal}/{process.iqn}")
        at = {"sd": 0, "old": 0}
        devices = {"sd": f"{here.sd.name}/0", "old": f"{here.old.name}/{here.old.lun}"}
        for place, volume in enumerate(VOLUMES):
            words = []
            for kind, device in devices.items():
                blocks = shares(here.name, here.sizes, kind)[place] // BLOCK
                words += ["--extent", f"{device}:{at[kind]}:{blocks}"]
                at[kind] += blocks
            ask(here, "volume", "add", volume, *words)
        luns = [word for n, volume in enumerate(VOLUMES) for word in ("--lun", f"{n}={volume}")]
        ask(here, "host", "add", "any", "--initiator", "*", *luns)
        for site in (here, there):
            secret_of(site).write_text(f"the secret of {site.name}\n")
        ask(
            here,
            *("site", "add", there.name, f"iscsi://{there.portal}/{there.first.iqn}"),
            *("--chap-user", here.name, "--chap-secret-file", str(secret_of(here))),
            *("--peer-user", there.name, "--peer-secret-file", str(secret_of(there))),
        )
    ask(tokyo, "mapping", "show", "data")
    ask(osaka, "mapping", "show", "data")
    for volume in VOLUMES:
        ask(osaka, "site", "offer", "tokyo", volume)
    ask(tokyo, "site", "probe", "osaka")


def secret_of(site: Site) -> Path:
    return site.first.folder / f"{site.name}.secret"
