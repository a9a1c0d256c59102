"""Pairs of volumes: made, looked at, split, brought together again, taken away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from daiko.control import jobs, names, pairs_over_sites
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.control.pair_checks import (
    check_free,
    check_group,
    check_names,
    check_update,
    not_confirmed,
)
from daiko.pair.error import NoSuchPair, VerbRefused
from daiko.pair.live_pair import PairStatus
from daiko.pair.pairs import Effect
from daiko.pair.state import Answer, Verb
from daiko.state.pair_record import Fence, PairRecord, PairState, Update
from daiko.state.record import VolumeRecord
from daiko.state.store import Store, Transaction

if TYPE_CHECKING:
    from daiko.control.system import System

LEAST_GRANULARITY: Final = 4 << 10
MOST_GRANULARITY: Final = 1 << 20
DEFAULT_GRANULARITY: Final = 64 << 10
"""Bytes a region of the differential bitmap."""
DEFAULT_JOURNAL: Final = 256 << 20
"""Bytes of the journal of asynchronous pairs."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a verb has done."""

    changed: tuple[str, ...]
    """The pairs to which anything was done; none where there was nothing to do."""
    pairs: tuple[PairStatus, ...]
    """As they are now, but those that are gone."""


def ls(system: System) -> list[PairStatus]:
    """All pairs, by name."""
    found = [
        *(pair.status for pair in system.pairs.all()),
        *(pair.status for pair in system.followed.all()),
    ]
    return sorted(found, key=lambda status: status.record.name)


def show(system: System, name: str) -> PairStatus:
    """One pair. Raises NotFound."""
    with suppress(NoSuchPair):
        return system.followed.pair(name).status
    try:
        return system.pairs.pair(name).status
    except NoSuchPair as missing:
        raise _missing(missing) from None


async def create(
    system: System,
    name: str,
    primary: str,
    secondary: str,
    *,
    group: str = "",
    fence: Fence = Fence.NEVER,
    granularity: int = DEFAULT_GRANULARITY,
    power_safe: bool = True,
    pace: str = "full",
    update: Update = Update.SYNC,
    journal: int = DEFAULT_JOURNAL,
    confirmed: bool = False,
) -> PairStatus:
    """Make a pair and begin to copy all of the primary. Raises NotFound, Invalid, Conflict: a name
    that is taken, volumes that cannot be paired, or data that would be lost and is not
    `confirmed`."""
    names.name(name)
    if group:
        names.name(group, "group")
    check_granularity(granularity)
    check_update(system, update, journal, fence=fence)
    wanted = jobs.pace(pace)
    now = time.time()
    record = PairRecord(
        name=name,
        primary=primary,
        secondary=secondary,
        group=group,
        fence=fence,
        granularity=granularity,
        power_safe=power_safe,
        pace=str(wanted),
        update=update,
        journal=journal,
        mixture=secondary,
        created=now,
        changed=now,
    )
    site, colon, volume = secondary.partition(":")
    if colon:
        record = await pairs_over_sites.prepare(system, record, site, volume)
    async with system.changing:
        check_new(system.store, record)
    if not confirmed:
        own = names.volume_of(system, primary)
        raise not_confirmed(
            f"all {own.blocks * own.block_size:,} bytes of {secondary} would be overwritten"
        )
    if record.site:
        record = record.model_copy(update={"uuid": uuid4().hex})
        # Not while changes here wait: the other system may ask the same of this one just now.
        await pairs_over_sites.join(system, record)
    return await _make(system, record)


async def _make(system: System, record: PairRecord) -> PairStatus:
    """Make the pair of this record; the other site, where there is one, has joined it already and
    leaves it where it cannot be made. Raises Conflict, Unavailable."""
    try:
        async with system.changing:
            check_new(system.store, record)
            return (await system.pairs.create(record)).status
    except BaseException as error:
        if record.site:
            await system.peers.leave(record)
        if isinstance(error, OSError):
            raise Unavailable(
                f"the differential bitmaps{' or the journal' if record.is_async else ''} cannot be "
                f"made: {error}",
                "look at the disk that holds the store; nothing was changed",
            ) from error
        raise


async def do(
    system: System, name: str, verb: Verb, *, confirmed: bool = False, at_once: bool = False
) -> Done:
    """Ask a verb of a pair or of a consistency group, of all of its pairs as one; what is in the
    journal of asynchronous pairs comes to the secondaries before, unless it has to be `at_once`.
    Raises NotFound; Conflict where a state does not allow it, the secondaries do not get what is in
    the journal, or data would be lost and that is not `confirmed`."""
    if followed := pairs_over_sites.followed(system, name):
        async with system.changing:
            await pairs_over_sites.do_followed(system, name, verb, confirmed=confirmed)
            done_to = tuple(pair.name for pair in followed)
            there = () if verb is Verb.REMOVE else done_to
            return Done(done_to, tuple(show(system, each) for each in there))
    async with system.changing:
        records = _records(system, name)
        await pairs_over_sites.check_verb(system, records, verb, confirmed=confirmed)
        found = _effects(system, name, verb)
        lost = [effect for effect in found if effect.overwritten]
        if lost and not confirmed:
            raise not_confirmed("; ".join(map(in_words, lost)))
        try:
            if pairs_over_sites.exchanges(records, verb):
                given = await pairs_over_sites.exchange_roles(system, name, verb)
                return Done(tuple(given), tuple(show(system, each) for each in given))
            done = await system.pairs.verb(name, verb, at_once=at_once)
        except VerbRefused as refused:
            pair, state, instead = refused.refusals[0]
            raise Conflict(f"{pair} is {state}: {verb} is refused", instead) from refused
        except NoSuchPair as missing:
            raise _missing(missing) from None
    await system.peers.telling.ended(pair.record.uuid for pair in done)
    left = []
    with suppress(NoSuchPair):
        left = [pair.status for pair in system.pairs.named(name)]
    return Done(tuple(pair.name for pair in done), tuple(left))


async def set_pace(system: System, name: str, pace: str) -> list[PairStatus]:
    """Let a pair, or those of a group, copy at another pace from now on. Raises NotFound, Invalid;
    Conflict where another site leads the pair."""
    wanted = jobs.pace(pace)
    if followed := pairs_over_sites.followed(system, name):
        site = followed[0].record.site
        raise Conflict(
            f"site {site} leads {name}, and says how fast it copies",
            f"ask it of the system at site {site}",
        )
    try:
        await system.pairs.set_pace(name, str(wanted))
        return [pair.status for pair in system.pairs.named(name)]
    except NoSuchPair as missing:
        raise _missing(missing) from None


async def effects(system: System, name: str, verb: Verb) -> list[Effect]:
    """What a verb would do to each pair that the name stands for; other sites are asked what they
    have marked. Raises NotFound; Unavailable where a site that has to be asked does not answer,
    Conflict where the verb is refused for a pair over two sites."""
    if followed := pairs_over_sites.followed(system, name):
        return [
            Effect(pair.name, Answer.REFUSED, f"site {pair.record.site} leads it")
            for pair in followed
        ]
    records = _records(system, name)
    await pairs_over_sites.check_verb(system, records, verb, confirmed=True)
    return _effects(system, name, verb)


def _effects(system: System, name: str, verb: Verb) -> list[Effect]:
    try:
        return system.pairs.effects(name, verb)
    except NoSuchPair as missing:
        raise _missing(missing) from None


def _records(system: System, name: str) -> list[PairRecord]:
    """Of the pairs that a name stands for. Raises NotFound."""
    try:
        return [pair.record for pair in system.pairs.named(name)]
    except NoSuchPair as missing:
        raise _missing(missing) from None


def in_words(effect: Effect) -> str:
    """What an effect does to data."""
    said = f"{effect.overwritten:,} bytes of {effect.volume} would be overwritten"
    if effect.discarded:
        said += f", {effect.discarded:,} of them in regions that hosts wrote to there"
    return said


async def wait(
    system: System, name: str, states: Sequence[PairState], seconds: float
) -> list[PairStatus]:
    """The pairs of this name as soon as all are in one of the states, or one is split by error
    though that was not asked for; at the latest after `seconds`. Raises NotFound."""

    # Who leads may change meanwhile.
    def is_followed() -> bool:
        return bool(pairs_over_sites.followed(system, name))

    def found() -> list[PairStatus]:
        if is_followed():
            return [pair.status for pair in system.followed.named(name)]
        return [pair.status for pair in system.pairs.named(name)]

    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not _is_there([status.record.state for status in found()], states):
                    await (
                        system.followed.changed() if is_followed() else system.pairs.changed(name)
                    )
        return found()
    except NoSuchPair as missing:
        raise _missing(missing) from None


def _is_there(found: Sequence[PairState], wanted: Sequence[PairState]) -> bool:
    return all(state in wanted for state in found) or (
        PairState.SPLIT_BY_ERROR in found and PairState.SPLIT_BY_ERROR not in wanted
    )


# --- checks -------------------------------------------------------------------------------------


def check_granularity(granularity: int) -> None:
    """Raises Invalid where regions of the differential bitmap cannot have so many bytes."""
    is_power = granularity > 0 and not granularity & (granularity - 1)
    if not (is_power and LEAST_GRANULARITY <= granularity <= MOST_GRANULARITY):
        raise Invalid(
            f"regions cannot have {granularity} bytes",
            "give a power of two from 4 KiB to 1 MiB",
            field="granularity",
        )


def check_new(found: Store | Transaction, record: PairRecord) -> None:
    """Raises NotFound, Invalid, Conflict where such a pair cannot be made."""
    first = names.volume_in(found, record.primary)
    check_names(found, record.name, record.group)
    if record.site:
        check_free(found, [first])
    else:
        second = names.volume_in(found, record.secondary)
        _check_volumes(first, second)
        check_free(found, [first, second])
    check_group(found, record)


def _check_volumes(first: VolumeRecord, second: VolumeRecord) -> None:
    if first.name == second.name:
        raise Invalid("a volume is no pair with itself", field="secondary")
    if first.block_size != second.block_size or first.blocks != second.blocks:
        raise Invalid(
            f"{first.name} has {first.blocks} blocks of {first.block_size} bytes, {second.name} "
            f"{second.blocks} of {second.block_size}",
            "both volumes of a pair have the same size and block size",
            field="secondary",
        )


def _missing(missing: NoSuchPair) -> NotFound:
    return NotFound(str(missing), "`daiko pair ls` shows all")
