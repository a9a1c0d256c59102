"""Pairs of volumes: made, looked at, split, brought together again, taken away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daiko.control import jobs, names, volumes
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.copy_manager.request import places_of
from daiko.pair.error import NoSuchPair, VerbRefused
from daiko.pair.live_pair import PairStatus
from daiko.pair.pairs import Effect
from daiko.pair.state import Verb
from daiko.state.record import (
    TERMINAL,
    Fence,
    JobRecord,
    PairRecord,
    PairState,
    VolumeRecord,
)

if TYPE_CHECKING:
    from daiko.control.system import System

LEAST_GRANULARITY: Final = 4 << 10
MOST_GRANULARITY: Final = 1 << 20
DEFAULT_GRANULARITY: Final = 64 << 10
"""Bytes a region of the differential bitmap."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a verb has done."""

    changed: tuple[str, ...]
    """The pairs to which anything was done; none where there was nothing to do."""
    pairs: tuple[PairStatus, ...]
    """As they are now, but those that are gone."""


def ls(system: System) -> list[PairStatus]:
    """All pairs, by name."""
    return [pair.status for pair in system.pairs.all()]


def show(system: System, name: str) -> PairStatus:
    """One pair. Raises NotFound."""
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
    confirmed: bool = False,
) -> PairStatus:
    """Make a pair and begin to copy all of the primary. Raises NotFound, Invalid, Conflict: a name
    that is taken, volumes that cannot be paired, or data that would be lost and is not
    `confirmed`."""
    names.name(name)
    if group:
        names.name(group, "group")
    _check_granularity(granularity)
    wanted = jobs.pace(pace)
    async with system.changing:
        first, second = names.volume_of(system, primary), names.volume_of(system, secondary)
        _check_volumes(system, first, second)
        _check_names(system, name, group)
        _check_jobs(system, first, second)
        size = second.blocks * second.block_size
        if not confirmed:
            raise _not_confirmed(f"all {size:,} bytes of {secondary} would be overwritten")
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
            mixture=secondary,
            created=now,
            changed=now,
        )
        try:
            return (await system.pairs.create(record)).status
        except OSError as error:
            raise Unavailable(
                f"the differential bitmaps cannot be made: {error}",
                "look at the disk that holds the store; nothing was changed",
            ) from error


async def do(system: System, name: str, verb: Verb, *, confirmed: bool = False) -> Done:
    """Ask a verb of a pair or of a consistency group, of all of its pairs as one. Raises NotFound;
    Conflict where a state does not allow it, or data would be lost and that is not `confirmed`."""
    async with system.changing:
        found = effects(system, name, verb)
        lost = [effect for effect in found if effect.overwritten]
        if lost and not confirmed:
            raise _not_confirmed("; ".join(map(in_words, lost)))
        try:
            done = await system.pairs.verb(name, verb)
        except VerbRefused as refused:
            pair, state, instead = refused.refusals[0]
            raise Conflict(f"{pair} is {state}: {verb} is refused", instead) from refused
        except NoSuchPair as missing:
            raise _missing(missing) from None
    left = []
    with suppress(NoSuchPair):
        left = [pair.status for pair in system.pairs.named(name)]
    return Done(tuple(pair.name for pair in done), tuple(left))


async def set_pace(system: System, name: str, pace: str) -> list[PairStatus]:
    """Let a pair, or those of a group, copy at another pace from now on. Raises NotFound,
    Invalid."""
    wanted = jobs.pace(pace)
    try:
        await system.pairs.set_pace(name, str(wanted))
        return [pair.status for pair in system.pairs.named(name)]
    except NoSuchPair as missing:
        raise _missing(missing) from None


def effects(system: System, name: str, verb: Verb) -> list[Effect]:
    """What a verb would do to each pair that the name stands for. Raises NotFound."""
    try:
        return system.pairs.effects(name, verb)
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
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not _is_there([p.record.state for p in system.pairs.named(name)], states):
                    await system.pairs.changed(name)
        return [pair.status for pair in system.pairs.named(name)]
    except NoSuchPair as missing:
        raise _missing(missing) from None


def _is_there(found: Sequence[PairState], wanted: Sequence[PairState]) -> bool:
    return all(state in wanted for state in found) or (
        PairState.SPLIT_BY_ERROR in found and PairState.SPLIT_BY_ERROR not in wanted
    )


# --- checks -------------------------------------------------------------------------------------


def _check_granularity(granularity: int) -> None:
    is_power = granularity > 0 and not granularity & (granularity - 1)
    if not (is_power and LEAST_GRANULARITY <= granularity <= MOST_GRANULARITY):
        raise Invalid(
            f"regions cannot have {granularity} bytes",
            "give a power of two from 4 KiB to 1 MiB",
            field="granularity",
        )


def _check_volumes(system: System, first: VolumeRecord, second: VolumeRecord) -> None:
    if first.name == second.name:
        raise Invalid("a volume is no pair with itself", field="secondary")
    if first.block_size != second.block_size or first.blocks != second.blocks:
        raise Invalid(
            f"{first.name} has {first.blocks} blocks of {first.block_size} bytes, {second.name} "
            f"{second.blocks} of {second.block_size}",
            "both volumes of a pair have the same size and block size",
            field="secondary",
        )
    for volume in (first, second):
        volumes.refuse_while_paired(system.store.list(PairRecord), volume.name)


def _check_names(system: System, name: str, group: str) -> None:
    for pair in system.store.list(PairRecord):
        if name in (pair.name, pair.group):
            raise Conflict(
                f"there is a pair or group {name} already",
                "see `daiko pair ls`, or choose another name",
                field="name",
            )
        if group and group == pair.name:
            raise Conflict(
                f"a pair is called {group}", "choose another name for the group", field="group"
            )
    if group == name:
        raise Conflict("a pair and its group have different names", field="group")


def _check_jobs(system: System, first: VolumeRecord, second: VolumeRecord) -> None:
    for job in system.store.list(JobRecord):
        if job.state in TERMINAL:
            continue
        for volume in (first, second):
            if volume.name in places_of(job):
                raise Conflict(
                    f"job {job.id} ({job.type}) works on {volume.name}",
                    f"wait for it, or `daiko job cancel {job.id}`",
                )


def _not_confirmed(what: str) -> Conflict:
    return Conflict(
        what, "say that this is meant: `confirmed` in the request, --yes on the command line"
    )


def _missing(missing: NoSuchPair) -> NotFound:
    return NotFound(str(missing), "`daiko pair ls` shows all")
