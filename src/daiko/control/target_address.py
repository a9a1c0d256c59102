"""Where a target is: `iscsi://HOST[:PORT][/IQN]` as an administrator writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from daiko.control import chap, names
from daiko.control.error import Invalid, Unavailable
from daiko.device.error import DeviceError
from daiko.initiator.discovery import discover
from daiko.initiator.portal import Portal
from daiko.iscsi.error import LoginRefused, RemoteProtocolError
from daiko.state.record import CredentialRecord

if TYPE_CHECKING:
    from daiko.control.system import System


class TargetAddress(NamedTuple):
    """A target and its portals."""

    iqn: str
    portals: tuple[str, ...]
    """HOST:PORT; the one of the address first."""


async def find(
    system: System,
    address: str,
    portals: tuple[str, ...],
    credentials: CredentialRecord | None,
) -> TargetAddress:
    """The target at an address, and at further `portals`. Without an IQN the portal is asked for
    its targets, by CHAP where `credentials` are given, and must have exactly one. Raises Invalid,
    Unavailable."""
    try:
        parts = urlsplit(address)
        authority, path = parts.netloc, [unquote(part) for part in parts.path.split("/") if part]
    except ValueError as error:
        raise Invalid(f"{address!r} is not an address: {error}", field="address") from None
    if parts.scheme != "iscsi" or not authority or len(path) > 2:
        raise Invalid(
            f"{address!r} is not the address of a target",
            "write it as iscsi://HOST:PORT/IQN",
            field="address",
        )
    names.refuse_login(authority, "address")
    first = names.portal(authority, "address")
    everywhere = tuple(dict.fromkeys([first, *(names.portal(text) for text in portals)]))
    target = path[0] if path else await _only_target(system, first, credentials)
    return TargetAddress(names.iscsi_name(target, "address"), everywhere)


async def _only_target(system: System, portal: str, credentials: CredentialRecord | None) -> str:
    account = None if credentials is None else chap.account_of(credentials)
    try:
        found = await discover(Portal.parse(portal), system.record.initiator_iqn, account=account)
    except (DeviceError, LoginRefused, RemoteProtocolError) as error:
        raise Unavailable(
            f"{portal} does not say which targets it has: {error}",
            "look whether a target listens there, or write the IQN as in iscsi://HOST:PORT/IQN",
            field="address",
        ) from error
    targets = [target.name for target in found]
    if len(targets) != 1:
        raise Invalid(
            f"{portal} has {len(targets)} targets for {system.record.initiator_iqn}",
            "say which: "
            + (
                " or ".join(f"iscsi://{portal}/{iqn}" for iqn in targets[:8])
                or "iscsi://HOST:PORT/IQN"
            ),
            field="address",
        )
    return targets[0]
