"""CHAP: by which user and secret hosts, back ends, other sites and discovery prove who they are.

Secrets come in and never go out: what can be asked for is which user is set, and whether there is a
secret for it. They are kept in the store, which only this process's user can read (folder 0700,
file 0600); CHAP needs them in clear, on both sides, so there is nothing better to keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from daiko.control.error import Invalid
from daiko.iscsi.chap import Account, Secret, name_fault, secret_fault
from daiko.state.record import CredentialRecord, HostRecord, SiteRecord
from daiko.state.store import Change, Store, Transaction
from daiko.target.authentication import Authentication

if TYPE_CHECKING:
    from daiko.control.system import System

DISCOVERY = "discovery:"


def host(name: str) -> str:
    """The owner of a host's credentials."""
    return f"host:{name}"


def backend(name: str) -> str:
    """The owner of a back end's credentials."""
    return f"backend:{name}"


def site(name: str) -> str:
    """The owner of the credentials by which this controller logs in to another site."""
    return f"site:{name}"


def peer(name: str) -> str:
    """The owner of the credentials by which the first controller of a site logs in here."""
    return f"peer:{name}"


_WE_LOG_IN: Final = ("backend:", "site:")
"""Owners of credentials by which this controller is the initiator."""


@dataclass(frozen=True, slots=True)
class Chap:
    """What an administrator sets."""

    user: str
    secret: str = field(repr=False)
    mutual_user: str = ""
    mutual_secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class ChapState:
    """What can be seen of it."""

    user: str
    secret_is_set: bool
    mutual_user: str
    mutual_secret_is_set: bool


def state(store: Store, owner: str) -> ChapState | None:
    """What is set; None where nobody has to prove anything."""
    record = store.get(CredentialRecord, owner)
    if record is None:
        return None
    return ChapState(
        record.user, bool(record.secret), record.mutual_user, bool(record.mutual_secret)
    )


def record_of(owner: str, chap: Chap) -> CredentialRecord:
    """What is stored, checked. Raises Invalid, without repeating a secret."""
    _check(chap.user, chap.secret, "user", "secret")
    if bool(chap.mutual_user) != bool(chap.mutual_secret):
        missing = "mutual_secret" if chap.mutual_user else "mutual_user"
        raise Invalid(
            "a target proves itself by a user and a secret",
            "give both of the mutual ones, or none of them",
            field=missing,
        )
    if chap.mutual_user:
        _check(chap.mutual_user, chap.mutual_secret, "mutual_user", "mutual_secret")
        if chap.mutual_secret == chap.secret:
            raise Invalid(
                "one CHAP secret cannot be good for both directions (RFC 7143, 9.2.1)",
                "give the target a secret of its own",
                field="mutual_secret",
            )
    return CredentialRecord(
        owner=owner,
        user=chap.user,
        secret=chap.secret,
        mutual_user=chap.mutual_user,
        mutual_secret=chap.mutual_secret,
    )


def _check(user: str, secret: str, user_field: str, secret_field: str) -> None:
    fault = name_fault(user)
    if fault:
        raise Invalid(fault, field=user_field)
    fault = secret_fault(secret.encode())
    if fault:
        raise Invalid(fault, "most hosts take 12 to 16 bytes", field=secret_field)


def put_for_target(change: Transaction, record: CredentialRecord) -> None:
    """Put what hosts log in by. Raises Invalid where a secret by which this target proves itself
    would be one by which a host does: who knows the one could pass for the other."""
    others = [
        other
        for other in change.list(CredentialRecord)
        if other.owner != record.owner and not other.owner.startswith(_WE_LOG_IN)
    ]
    ours = {each.mutual_secret for each in (*others, record)} - {""}
    theirs = {each.secret for each in (*others, record)} - {""}
    if ours & theirs:
        raise Invalid(
            "a host proves itself by a secret by which this target proves itself to another "
            "(RFC 7143, 9.2.1)",
            "give the target secrets of its own",
            field="mutual_secret" if record.mutual_secret in theirs else "secret",
        )
    change.put(record)


def account(store: Store, owner: str) -> Account | None:
    """As the login uses it."""
    record = store.get(CredentialRecord, owner)
    return None if record is None else account_of(record)


def account_of(record: CredentialRecord) -> Account:
    """As the login uses it."""
    target = None
    if record.mutual_user and record.mutual_secret:
        target = Secret(record.mutual_user, record.mutual_secret.encode())
    return Account(Secret(record.user, record.secret.encode()), target)


_FOLLOWED: Final = (HostRecord, SiteRecord, CredentialRecord)


async def set_for_discovery(system: System, chap: Chap) -> ChapState:
    """Let discovery sessions begin with a proof. Raises Invalid."""
    record = record_of(DISCOVERY, chap)
    async with system.changing, system.store.transaction() as change:
        put_for_target(change, record)
    found = state(system.store, DISCOVERY)
    assert found is not None
    return found


async def clear_for_discovery(system: System) -> None:
    """Let anybody discover again."""
    async with system.changing, system.store.transaction() as change:
        change.delete(CredentialRecord, DISCOVERY)


def follow(store: Store, authentication: Authentication) -> None:
    """Make the target ask for what the store says, now and whenever that changes."""

    def publish() -> None:
        hosts = {
            initiator: account(store, host(record.name))
            for record in store.list(HostRecord)
            for initiator in record.initiators
        }
        for record in store.list(SiteRecord):
            hosts[record.initiator] = account(store, peer(record.name))
        authentication.publish(hosts, account(store, DISCOVERY))

    def changed(changes: Sequence[Change]) -> None:
        if any(change.type in _FOLLOWED for change in changes):
            publish()

    publish()
    store.watch(changed)
