"""Where the API is: one notation for the daemon, which listens there, and for the command line.

`unix:/run/daiko/api.sock` is a Unix socket, `http://127.0.0.1:8080` (or just `127.0.0.1:8080`) a
TCP port, IPv6 in brackets. Both ends take their default from here, so that `daiko serve` and
`daiko backend ls` by the same user find each other without a setting.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """A Unix socket (`path`), or a TCP port of a host."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> ApiAddress:
        """Read `unix:PATH`, an absolute PATH, `http://HOST:PORT` or `HOST:PORT`. Raises
        ValueError with a sentence for the administrator."""
        if text.startswith("unix:") or text.startswith("/"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path:
                raise ValueError("unix: needs the path of a socket, as in unix:/run/daiko/api.sock")
            return cls(path=path)
        try:
            parts = urlsplit(text if "//" in text else f"//{text}", scheme="http")
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"{text!r} is not an address: {error}") from None
        if parts.scheme != "http" or not host or port is None or parts.path.strip("/"):
            raise ValueError(
                f"{text!r} is not an address of the API: write unix:PATH or http://HOST:PORT"
            )
        return cls(host=host, port=port)

    @property
    def is_local(self) -> bool:
        """Only this machine can reach it, so the API needs no token there."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def base_url(self) -> str:
        """What an HTTP client puts before a path; over a Unix socket the host is only a name."""
        if self.path:
            return "http://daiko"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else self.base_url


def default_address() -> ApiAddress:
    """A Unix socket in the run-time directory of the user: `/run/daiko/api.sock` for root."""
    if os.getuid() == 0:
        return ApiAddress(path="/run/daiko/api.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "daiko" if runtime else Path(f"/tmp/daiko-{os.getuid()}")
    return ApiAddress(path=str(folder / "api.sock"))


def is_foreign(folder: Path) -> bool:
    """Whether the folder of a socket is another user's, root's apart. Who owns it can put a socket
    of their own into it, and in /tmp anybody can make a folder first. Raises OSError."""
    return folder.stat().st_uid not in (0, os.getuid())
