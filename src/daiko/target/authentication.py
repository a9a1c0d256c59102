"""Who has to prove who it is before a login succeeds (RFC 7143, 9.2.1), and how often it may fail.

`Authentication` is the policy: for each initiator name the account by which it proves itself, or
None where its name is enough. A name that is nobody's is asked for a proof as soon as any host has
to give one, and cannot succeed: from outside, an unknown name looks like a wrong secret.

A discovery session shows which targets are here. It needs a proof where an account for discovery
is set; a host's own account will do as well. Where none is set, a proof is taken and not asked for.

`FailureLimit` makes guessing slow. It counts wrong answers by address: after `FAILURES` of them
that address gets one more try in `REGAIN_SECONDS`, and is told SERVICE UNAVAILABLE meanwhile,
which hosts answer by trying again later. Other addresses notice nothing, and neither do hosts at
the same address that need no proof.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Mapping

from daiko.iscsi.chap import Account, TargetChap

ANY_INITIATOR = "*"
FAILURES = 10
"""Wrong answers in a row that an address may give."""
REGAIN_SECONDS = 6.0
"""After which one of them is forgotten."""
MAXIMUM_ADDRESSES = 4096
"""Addresses that are remembered; the one that failed longest ago is forgotten first."""


class Authentication:
    """The accounts of all hosts, and that of discovery."""

    __slots__ = ("_discovery", "_hosts")

    def __init__(self) -> None:
        self._hosts: dict[str, Account | None] = {}
        self._discovery: Account | None = None

    def publish(self, hosts: Mapping[str, Account | None], discovery: Account | None) -> None:
        """Replace all of it. Sessions that exist go on; it holds for the next login."""
        self._hosts = {name.lower(): account for name, account in hosts.items()}
        self._discovery = discovery

    def demand(
        self, initiator_name: str, *, is_discovery: bool, is_known: bool
    ) -> tuple[TargetChap | None, bool]:
        """One run of CHAP for this login, or None where there is nothing to prove; and whether
        it must be gone through. `is_known`: the initiator is a host here."""
        name = initiator_name.lower()
        own = self._hosts.get(name if name in self._hosts else ANY_INITIATOR)
        accounts = [] if own is None or not is_known else [own]
        is_required = own is not None
        if not is_known:
            is_required = self._is_in_use
        if is_discovery:
            is_offered = is_required
            is_required = self._discovery is not None
            if self._discovery is not None:
                accounts.append(self._discovery)
            elif not is_offered:
                return None, False
        elif not is_required:
            return None, False
        return TargetChap(accounts, secrets.token_bytes), is_required

    @property
    def _is_in_use(self) -> bool:
        return self._discovery is not None or any(self._hosts.values())


class FailureLimit:
    """Wrong answers by address. `now` in seconds of any clock that does not go back."""

    __slots__ = ("_failures",)

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Address -> (failures not forgotten, as of when)."""

    def is_reached(self, address: str, now: float) -> bool:
        """Whether the next try of this address has to wait."""
        return self._count(_peer(address), now) > FAILURES - 1

    def failed(self, address: str, now: float) -> None:
        """Another wrong answer."""
        peer = _peer(address)
        self._failures[peer] = (self._count(peer, now) + 1, now)
        self._failures.move_to_end(peer)
        while len(self._failures) > MAXIMUM_ADDRESSES:
            self._failures.popitem(last=False)

    def _count(self, peer: str, now: float) -> float:
        count, since = self._failures.get(peer, (0.0, now))
        left = count - (now - since) / REGAIN_SECONDS
        return left if left > 0 else 0.0


def _peer(address: str) -> str:
    """What counts as one peer: an IPv4 address; of IPv6 the 64 bits that a host cannot choose."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
