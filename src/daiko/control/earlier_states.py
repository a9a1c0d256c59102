"""As of when the secondaries of asynchronous pairs are good that other sites lead.

Only who leads knows that: what it says last is what an administrator here goes by when that site
is lost. So it is asked again and again, while there is something to know.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from daiko.pair.followed import FollowedPair
from daiko.pair.peers import head
from daiko.pair.surroundings import SiteRefused
from daiko.scsi.pair_envelopes import Ask
from daiko.state.store import StoreError

if TYPE_CHECKING:
    from daiko.control.system import System

log = structlog.get_logger(__name__)

ASK_SECONDS: Final = 10.0
"""Between two times that a leader is asked."""
SOON_SECONDS: Final = 1.0
"""Likewise, where it is not known of a pair."""


async def ask_leaders(system: System) -> None:
    """Ask from now on, until it is cancelled."""
    while True:
        changed = asyncio.ensure_future(system.followed.changed())
        try:
            found = [pair for pair in system.followed.all() if pair.record.is_earlier_state]
            await _ask_all(system, found)
            is_known = all(pair.record.good_as_of for pair in found)
            await asyncio.wait({changed}, timeout=ASK_SECONDS if is_known else SOON_SECONDS)
        finally:
            changed.cancel()


async def _ask_all(system: System, pairs: list[FollowedPair]) -> None:
    silent: set[str] = set()
    for pair in pairs:
        site = pair.record.site
        if site in silent:
            continue
        try:
            answer = await system.peers.exchange(site, Ask(head(pair.record)))
            moment = float(answer.good_as_of)
            await system.followed.note_good(pair, answer.head.sequence, moment)
        except SiteRefused:
            silent.add(site)
        except StoreError as error:
            log.warning("moment of an earlier state not kept", pair=pair.name, error=str(error))
