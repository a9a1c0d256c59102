"""What is in a journal comes to the secondaries before a verb changes the pairs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from daiko.pair.applier import Applier
from daiko.pair.error import VerbRefused
from daiko.pair.live_pair import LivePair
from daiko.pair.settings import PairSettings
from daiko.pair.state import Verb


@asynccontextmanager
async def within(
    seconds: float, pairs: Sequence[LivePair], applier: Applier
) -> AsyncGenerator[None, None]:
    """What is in the journal comes to the secondaries in this time. Raises VerbRefused when it is
    over."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        why = f" ({applier.trouble})" if applier.trouble else ""
        text = (
            f"what is in its journal did not come to the secondary within {seconds:g} s{why}; "
            "wait for it, or split it --now, without that"
        )
        raise VerbRefused(
            [(pair.name, str(pair.record.state), text) for pair in pairs if pair.record.term]
        ) from None


async def bring_up(
    applier: Applier | None, pairs: Sequence[LivePair], verb: Verb, settings: PairSettings
) -> None:
    """Wait until the secondaries have what is acknowledged now, and (but for a swap) nothing later;
    at once where the verb needs no journal. Raises VerbRefused."""
    if applier is None or verb not in (Verb.SPLIT, Verb.SWAP, Verb.REMOVE):
        return
    if not any(pair.record.term for pair in pairs):
        return
    if verb is Verb.SWAP:
        await _catch_up(applier, pairs, settings)
        return
    applier.limit = applier.journal.last
    async with within(settings.drain_seconds, pairs, applier):
        await applier.reached(applier.limit)


async def _catch_up(applier: Applier, pairs: Sequence[LivePair], settings: PairSettings) -> None:
    """Wait until what is left can be brought up while hosts are held. A host that waits for each
    write may be faster than the way to the secondary, so hosts are slowed down meanwhile. Raises
    VerbRefused."""
    clock = asyncio.get_running_loop().time
    applier.journal.slow_down()
    try:
        async with within(settings.drain_seconds, pairs, applier):
            took = math.inf
            while took > settings.swap_seconds / 5:
                begun = clock()
                await applier.reached(applier.journal.last)
                took = clock() - begun
    finally:
        applier.journal.full_speed()
