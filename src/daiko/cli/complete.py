"""What the shell offers for completion: the names that the controller knows.

Completion must be quick and must never print anything of its own, so a controller that does not
answer at once offers nothing.
"""

from __future__ import annotations

import os
from typing import Any

import typer

from daiko.api.address import ApiAddress, default_address
from daiko.cli.client import Client
from daiko.cli.error import CliError

SECONDS = 1.0

Offered = list[tuple[str, str]]
"""(value, help)."""


def backends(context: typer.Context, incomplete: str) -> Offered:
    """Names of back ends."""
    return _names(context, incomplete, "backends", "address")


def volumes(context: typer.Context, incomplete: str) -> Offered:
    """Names of volumes."""
    return _names(context, incomplete, "volumes", "")


def hosts(context: typer.Context, incomplete: str) -> Offered:
    """Names of hosts."""
    return _names(context, incomplete, "hosts", "")


def pairs(context: typer.Context, incomplete: str) -> Offered:
    """Names of pairs."""
    return _names(context, incomplete, "pairs", "state")


def sites(context: typer.Context, incomplete: str) -> Offered:
    """Names of sites."""
    return _names(context, incomplete, "sites", "iqn")


def jobs(context: typer.Context, incomplete: str) -> Offered:
    """Numbers of jobs."""
    return _numbers(context, incomplete, "jobs")


def backups(context: typer.Context, incomplete: str) -> Offered:
    """Numbers of backups."""
    return _numbers(context, incomplete, "backups")


def devices(context: typer.Context, incomplete: str) -> Offered:
    """BACKEND/LUN of every device."""
    return [
        (f"{backend['name']}/{device['lun']}", f"{device['vendor']} {device['product']}".strip())
        for backend in _ask(context, "backends")
        for device in backend["devices"]
        if f"{backend['name']}/{device['lun']}".startswith(incomplete)
    ]


def places(context: typer.Context, incomplete: str) -> Offered:
    """Volumes, back ends and devices: what a copy can go to."""
    return (
        volumes(context, incomplete)
        + backends(context, incomplete)
        + (devices(context, incomplete) if "/" in incomplete else [])
    )


def functions(incomplete: str) -> Offered:
    """Names of functions."""
    known = [("direct-backup", "copy to a backup device"), ("volume-copy", "copy to a volume")]
    return [offer for offer in known if offer[0].startswith(incomplete)]


def _names(context: typer.Context, incomplete: str, noun: str, help_field: str) -> Offered:
    return [
        (item["name"], str(item.get(help_field, "")))
        for item in _ask(context, noun)
        if item["name"].startswith(incomplete)
    ]


def _numbers(context: typer.Context, incomplete: str, noun: str) -> Offered:
    return [
        (str(job["id"]), f"{job['type']} {job['source']} to {job['destination']}, {job['state']}")
        for job in _ask(context, noun)
        if str(job["id"]).startswith(incomplete)
    ]


def _ask(context: typer.Context, noun: str) -> Any:
    options = context.find_root().params
    address = options.get("api") or os.environ.get("DAIKO_API")
    token = options.get("token") or os.environ.get("DAIKO_TOKEN") or ""
    try:
        where = ApiAddress.parse(address) if address else default_address()
        return Client(where, token, seconds=SECONDS).get(noun)
    except (CliError, ValueError):
        return []
