"""The record of a pair of volumes, and the words for what it can be."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from daiko.state.record import Name, Record


class PairState(StrEnum):
    COPYING = "copying"
    PAIRED = "paired"
    SPLIT = "split"
    """By an administrator."""
    SPLIT_BY_ERROR = "split-by-error"
    REVERSE_COPYING = "reverse-copying"
    SWAPPED = "swapped"
    """Split, and hosts use the secondary instead of the primary."""


class Fence(StrEnum):
    """What hosts meet that write to the primary while the secondary is lost."""

    NEVER = "never"
    """The primary carries on, and the pair is split by error."""
    DATA = "data"
    """Writes are refused: no data is ever acknowledged that is not on both sides."""


class Update(StrEnum):
    """How the secondary of a pair is kept like the primary."""

    SYNC = "sync"
    """A write is good when both sides have it."""
    ASYNC = "async"
    """A write is good when the primary and the journal have it; the secondary is an earlier state
    of its whole consistency group."""


class PairRecord(Record):
    """Two volumes of the same size, one kept like the other ([0089], [0120])."""

    kind: ClassVar[str] = "pair"
    name: str = Name
    primary: str
    """Name of the volume; likewise `secondary`."""
    secondary: str
    group: str = ""
    """Consistency group: its pairs split and resync as one. "" = alone."""
    state: PairState = PairState.COPYING
    fence: Fence = Fence.NEVER
    granularity: int = 64 << 10
    """Bytes a region of the differential bitmap."""
    power_safe: bool = True
    """The bitmap outlives a power cut, too, with no more than 1 GiB marked beyond what was; else
    only the process, and a power cut marks everything."""
    pace: str = "full"
    """Of its copying, as `copy_manager/pace.py` reads it."""
    reason: str = ""
    """Why it is split by error, or what it waits for."""
    mixture: str = ""
    """Volume that was being copied to when copying stopped, or still is: it is neither as it was
    nor as the other one. "" = none."""
    created: float = 0.0
    changed: float = 0.0
    """When the state became what it is."""
    site: str = ""
    """The site of the other volume, which is then called `SITE:VOLUME` here [0089]. "" = both
    volumes are here."""
    uuid: str = ""
    """Of a pair over two sites: by this both know it; 16 bytes in hex."""
    peer_naa: str = ""
    """Identity of the volume at the other site: 16 bytes in hex."""
    sequence: int = 0
    """Grows with every state: of two that two sites know, the later is the one with the higher. The
    upper 32 bits count how often the lead has changed between the sites."""
    is_followed: bool = False
    """The other site leads the pair; this one does what it says."""
    taken_over: bool = False
    """An administrator of the site that followed has let its hosts use its volume, without the
    other site: whose data counts has to be said."""
    offered_lead: bool = False
    """Of a pair that is followed: this site led it, has offered the lead to the other one, and was
    not told yet that it was taken. Nobody leads until then."""
    settles: bool = False
    """An administrator has said whose data counts: this state holds against a side that has taken
    over."""
    loan: int = 0
    """Of a pair that is followed: the loan under which second controllers of the site that leads
    may be writing to the devices of the secondary. 0 = none do."""
    update: Update = Update.SYNC
    """How the secondary is kept like the primary."""
    journal: int = 256 << 20
    """Bytes of the journal that an asynchronous pair shares with its group."""
    term: int = 0
    """Of an asynchronous pair whose entries in the journal count: the sequence when it became
    paired. Entries of other terms are nobody's. 0 = none count."""
    good_as_of: float = 0.0
    """Of an asynchronous pair that is followed: the secondary has everything that was acknowledged
    before, and is an earlier state of its whole group, as the site that leads said last; in seconds
    since the epoch. 0 = it is none, or that is not known."""

    @property
    def key(self) -> str:
        return self.name

    @property
    def is_async(self) -> bool:
        return self.update is Update.ASYNC

    @property
    def is_draining(self) -> bool:
        """Its journal has ended, and what is in it comes to the secondary before anything is
        copied: the secondary is an earlier state still."""
        return self.state is PairState.COPYING and bool(self.term)

    @property
    def is_earlier_state(self) -> bool:
        """The secondary of an asynchronous pair gets entries of the journal, and nothing is copied
        over it."""
        return self.is_async and bool(self.term)

    @property
    def is_led_over_sites(self) -> bool:
        """This site leads, and copies to another."""
        return bool(self.site) and not self.is_followed
