"""Sites: the first controllers of other sites, named by the administrators of both sides [0088].

Adding a site here says where the other first controller is and as whom to log in to it, and as whom
it logs in here. Its administrator does the same with this one; with both the link is up. CHAP goes
both ways, each by a user of its own, unless the administrator says that names are proof enough.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daiko.backend.site_session import LinkStatus
from daiko.control import chap, names, target_address
from daiko.control.chap import Chap, ChapState
from daiko.control.error import Conflict, Invalid, NotFound
from daiko.control.hosts import Login
from daiko.control.pair_checks import refuse_while_migrated
from daiko.scsi.site_values import LARGEST_LUN, Greeting
from daiko.state.migration_record import MigrationRecord
from daiko.state.pair_record import PairRecord
from daiko.state.record import CredentialRecord, HostRecord, ReachRecord, SiteRecord, VolumeRecord
from daiko.state.store import Transaction

if TYPE_CHECKING:
    from daiko.control.system import System

FIRST_LOOK: Final = 5.0
"""Seconds that `add` and `change` wait for how the link is."""
PROBE: Final = 30.0
"""Seconds that `probe` waits."""


@dataclass(frozen=True, slots=True)
class SiteState:
    """A site, and how the link to it is."""

    record: SiteRecord
    status: LinkStatus
    greeting: Greeting | None
    """What its first controller last said of itself; None: it has not answered yet."""
    version: tuple[int, int] | None
    """Of the protocol that it speaks."""
    clock_difference: float | None
    """Seconds by which its clock was ahead of ours when it last said; None: not known."""
    logins: tuple[Login, ...]
    """Its sessions here."""
    chap: ChapState | None
    """As whom we log in there; None: by our name alone."""
    peer_chap: ChapState | None
    """As whom it logs in here; None: by its name alone."""
    pairs: tuple[str, ...]
    """The pairs with it, whichever side leads, by name."""


async def add(
    system: System,
    name: str,
    address: str,
    *,
    portals: tuple[str, ...] = (),
    initiator: str = "",
    login: Chap | None = None,
    peer: Chap | None = None,
    without_chap: bool = False,
) -> SiteState:
    """Name another site's first controller.

    `address` is `iscsi://HOST[:PORT][/IQN]`, with further `portals` of the same target; without an
    IQN the portal is asked for its targets. `initiator`: the iSCSI name under which it logs in here
    ("": its target's name with `.initiator` behind it, as every Daiko has it that was told no
    other). `login`: as whom we log in there, `peer`: as whom it logs in here. Both must be given,
    but for what `without_chap` allows to be left out.

    That the other does not answer, or does not know us yet, is no error: the state says so. Raises
    Invalid, Conflict (a name is taken), Unavailable (without an IQN, when it does not answer).
    """
    names.name(name)
    own = _credentials(chap.site(name), login, "chap")
    theirs = _credentials(chap.peer(name), peer, "peer_chap")
    _refuse_no_chap(own, theirs, without_chap=without_chap)
    async with system.changing:
        if system.store.get(SiteRecord, name) is not None:
            raise Conflict(
                f"a site is called {name!r} already",
                f"see it with `daiko site show {name}`, or choose another name",
                field="name",
            )
        target = await target_address.find(system, address, portals, own)
        record = SiteRecord(
            name=name,
            iqn=target.iqn,
            portals=target.portals,
            initiator=names.iscsi_name(initiator or f"{target.iqn}.initiator", "initiator"),
            without_chap=without_chap and (own is None or theirs is None),
        )
        async with system.store.transaction() as change:
            put(change, record, own_iqn=system.record.iqn)
            _put_credentials(change, name, own, theirs)
    await system.sites.settle(name, FIRST_LOOK)
    return show(system, name)


def ls(system: System) -> list[SiteState]:
    """All sites by name."""
    return [_state(system, record) for record in system.store.list(SiteRecord)]


def show(system: System, name: str) -> SiteState:
    """One site. Raises NotFound."""
    return _state(system, names.site_of(system, name))


async def probe(system: System, name: str) -> SiteState:
    """Ask a site again now; what it said before that could not be is forgotten. Raises NotFound."""
    names.site_of(system, name)
    await system.sites.settle(name, PROBE)
    return show(system, name)


async def change(
    system: System,
    name: str,
    *,
    portals: tuple[str, ...] = (),
    initiator: str = "",
    login: Chap | None = None,
    peer: Chap | None = None,
    without_chap: bool = False,
) -> SiteState:
    """Give a site other portals, another initiator name or other CHAP users; what is not given
    stays. With `without_chap` the CHAP users that are not given are taken away. Sessions go on; it
    holds for the next login. Raises NotFound, Invalid, Conflict."""
    own = _credentials(chap.site(name), login, "chap")
    theirs = _credentials(chap.peer(name), peer, "peer_chap")
    async with system.changing:
        record = names.site_of(system, name)
        async with system.store.transaction() as change:
            if not without_chap:
                own = own or change.get(CredentialRecord, chap.site(name))
                theirs = theirs or change.get(CredentialRecord, chap.peer(name))
            is_half = own is None or theirs is None
            changes = {
                "portals": tuple(names.portal(text) for text in portals) or record.portals,
                "initiator": names.iscsi_name(initiator, "initiator")
                if initiator
                else record.initiator,
                "without_chap": is_half and (without_chap or record.without_chap),
            }
            put(change, record.model_copy(update=changes), own_iqn=system.record.iqn)
            _put_credentials(change, name, own, theirs)
    await system.sites.settle(name, FIRST_LOOK)
    return show(system, name)


async def offer(system: System, name: str, volume: str) -> SiteState:
    """Let a site read and write a volume of ours, learn where it lies, and pair it with one of its
    own; nothing happens where it may already. Raises NotFound, Conflict (no LUN is free)."""
    async with system.changing:
        names.site_of(system, name)
        names.volume_of(system, volume)
        try:
            await system.sites.offer(name, volume)
        except OverflowError as error:
            raise Conflict(str(error), "withdraw a volume that it does not need") from error
    return show(system, name)


async def withdraw(system: System, name: str, volume: str) -> SiteState:
    """Take that back. Raises NotFound; Conflict while the site leads a pair with the volume."""
    async with system.changing:
        record = names.site_of(system, name)
        if volume not in record.offered.values():
            raise NotFound(
                f"site {name} is not offered {volume}", f"`daiko site show {name}` shows what it is"
            )
        left = {lun: each for lun, each in record.offered.items() if each != volume}
        async with system.store.transaction() as change:
            wanted = record.model_copy(update={"offered": left})
            put(change, wanted, own_iqn=system.record.iqn)
    return show(system, name)


async def remove(system: System, name: str) -> None:
    """Forget a site; its sessions here are ended, ours there too. Raises NotFound; Conflict while
    it is offered a volume."""
    async with system.changing:
        names.site_of(system, name)
        async with system.store.transaction() as change:
            delete(change, name)


def put(change: Transaction, record: SiteRecord, *, own_iqn: str) -> None:
    """Check a site and put its record, inside a transaction. Raises Invalid, Conflict."""
    check(record)
    if record.iqn == own_iqn.lower():
        raise Invalid(f"{record.iqn} is this system's own target", field="address")
    for other in change.list(SiteRecord):
        if other.name != record.name and record.iqn == other.iqn:
            raise Conflict(
                f"{record.iqn} is site {other.name!r} already",
                "add its other portals to that one",
                field="address",
            )
        if other.name != record.name and record.initiator == other.initiator:
            raise Conflict(f"site {other.name!r} logs in as {record.initiator}", field="initiator")
    for host in change.list(HostRecord):
        if record.initiator in host.initiators:
            raise Conflict(
                f"host {host.name!r} has the initiator {record.initiator}",
                "an initiator name is a host's or a site's, not both",
                field="initiator",
            )
    for lun, volume in record.offered.items():
        if change.get(VolumeRecord, volume) is None:
            raise Conflict(f"there is no volume {volume}", field=f"offered.{lun}")
        refuse_while_migrated(change.list(MigrationRecord), volume)
    for pair in change.list(PairRecord):
        if pair.is_followed and pair.site == record.name:
            _refuse_withdrawing(pair, record.offered.values())
    change.put(record)


def _refuse_withdrawing(pair: PairRecord, offered: Collection[str]) -> None:
    """Raises Conflict where a pair that its site leads needs a volume that is not offered."""
    if pair.secondary not in offered:
        raise Conflict(
            f"pair {pair.name}, which site {pair.site} leads, needs {pair.secondary}",
            f"`daiko pair rm {pair.name}` ends the pair, and takes the offer back",
            field="offered",
        )


def check(record: SiteRecord) -> None:
    """Hold a record that was not made here to the same rules. Raises Invalid."""
    names.name(record.name)
    names.iscsi_name(record.iqn)
    names.iscsi_name(record.initiator, "initiator")
    for portal in record.portals:
        names.portal(portal)
    if len(set(record.offered.values())) != len(record.offered):
        raise Invalid(f"site {record.name} is offered a volume twice", field="offered")
    for lun in record.offered:
        if not 1 <= lun <= LARGEST_LUN:
            raise Invalid(
                f"LUN {lun} cannot be offered",
                f"use 1 to {LARGEST_LUN}; LUN 0 is the management unit",
                field="offered",
            )


def delete(change: Transaction, name: str) -> None:
    """Forget a site, inside a transaction. Raises Conflict while it is offered a volume."""
    record = change.get(SiteRecord, name)
    for pair in change.list(PairRecord):
        if pair.site == name:
            raise Conflict(
                f"pair {pair.name} is with site {name}",
                f"`daiko pair rm {pair.name}` ends the pair",
            )
    if record is not None and record.offered:
        lun, volume = next(iter(record.offered.items()))
        raise Conflict(
            f"site {name} is offered {volume} as LUN {lun}",
            f"`daiko site withdraw {name} {volume}` takes that back",
        )
    change.delete(SiteRecord, name)
    for reach in change.list(ReachRecord):
        if reach.device.startswith(f"{name}:"):
            change.delete(ReachRecord, reach.key)
    change.delete(CredentialRecord, chap.site(name))
    change.delete(CredentialRecord, chap.peer(name))


def _credentials(owner: str, given: Chap | None, field: str) -> CredentialRecord | None:
    """What is stored of a CHAP user; a fault is one of this field. Raises Invalid."""
    if given is None:
        return None
    try:
        return chap.record_of(owner, given)
    except Invalid as error:
        raise Invalid(error.message, error.next_step, field=f"{field}.{error.field}") from None


def _refuse_no_chap(
    own: CredentialRecord | None, theirs: CredentialRecord | None, *, without_chap: bool
) -> None:
    if without_chap:
        return
    if theirs is None:
        raise Invalid(
            "a site that proves itself by its name alone could be anybody who says that name",
            "give the CHAP user and secret by which it logs in here (--peer-user), "
            "or --without-chap where the network lets nobody else in",
            field="peer_chap",
        )
    if own is None:
        raise Invalid(
            "without a CHAP user we could not prove to the other site who we are",
            "give the one by which this system logs in there (--chap-user), "
            "or --without-chap where the network lets nobody else in",
            field="chap",
        )


def _put_credentials(
    change: Transaction, name: str, own: CredentialRecord | None, theirs: CredentialRecord | None
) -> None:
    """Both directions, each in the place of what there was. Raises Invalid where a secret of ours
    is one of theirs, too: either could then pass for the other (RFC 7143, 9.2.1)."""
    ours = {own.secret if own else "", theirs.mutual_secret if theirs else ""} - {""}
    proofs = {theirs.secret if theirs else "", own.mutual_secret if own else ""} - {""}
    if ours & proofs:
        raise Invalid(
            "one CHAP secret cannot be good for both directions (RFC 7143, 9.2.1)",
            "give each site a secret of its own",
            field="peer_chap.secret",
        )
    if theirs is None:
        change.delete(CredentialRecord, chap.peer(name))
    else:
        chap.put_for_target(change, theirs)
    if own is None:
        change.delete(CredentialRecord, chap.site(name))
    else:
        change.put(own)


def _state(system: System, record: SiteRecord) -> SiteState:
    link = system.sites.link(record.name)
    return SiteState(
        record,
        link.status,
        link.greeting,
        link.version,
        link.clock_difference,
        tuple(
            Login(nexus.initiator_name, names.socket_address(nexus.peer_address))
            for nexus in system.sessions()
            if nexus.initiator_name == record.initiator
        ),
        chap.state(system.store, chap.site(record.name)),
        chap.state(system.store, chap.peer(record.name)),
        tuple(pair.name for pair in system.store.list(PairRecord) if pair.site == record.name),
    )
