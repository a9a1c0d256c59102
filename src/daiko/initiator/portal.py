"""The address of a network portal (RFC 7143, 4.2.1): HOST:PORT, IPv6 in brackets."""

from __future__ import annotations

from typing import NamedTuple

ISCSI_PORT = 3260
"""The well-known port."""


class Portal(NamedTuple):
    """Where a target listens."""

    host: str
    port: int = ISCSI_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Portal:
        """HOST, HOST:PORT, [IPv6] or [IPv6]:PORT. Raises ValueError."""
        host, port = text, ""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ValueError(f"{text!r} is no portal: write [ADDRESS]:PORT")
            port = rest[1:]
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        if not host or text.endswith(":"):
            raise ValueError(f"{text!r} is no portal: write HOST:PORT")
        if not port:
            return cls(host)
        if not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is no portal: the port is a number from 1 to 65535")
        return cls(host, int(port))
