"""Who may use the API.

Where only this machine can reach it, whoever reaches it may use it, and no token is needed; the one
stranger there is a web page in a local browser, which is told apart by the headers that every
browser sends with it. Anywhere else a bearer token is needed.
"""

from __future__ import annotations

import ipaddress
import secrets
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

_bearer = HTTPBearer(auto_error=False, description="The token that `daiko serve` was given")


async def check(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Raise HTTPException unless the request may be served."""
    token: str | None = request.app.state.token
    if token is not None:
        given = credentials.credentials if credentials else ""
        if not secrets.compare_digest(given.encode(), token.encode()):
            raise HTTPException(
                401, "The token is missing or wrong", {"WWW-Authenticate": "Bearer"}
            )
        return
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        raise HTTPException(403, "A page of another site may not use this API")
    # A site whose name was made to point to this machine shows by its name.
    if not _is_this_machine(host):
        raise HTTPException(403, f"This API does not answer to the name {host!r}")


LOCAL_NAMES = frozenset({"localhost", "daiko"})
"""`daiko` is what the command line calls it over a Unix socket."""


def _is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine: by a name above or an address of loopback. What
    only begins like such an address, 127.0.0.1.evil.example, is whose name it is."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in LOCAL_NAMES or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
