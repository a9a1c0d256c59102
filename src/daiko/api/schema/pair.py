"""Pairs of volumes."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.api.schema.job import PACE
from daiko.control.pairs import DEFAULT_GRANULARITY, DEFAULT_JOURNAL, Done
from daiko.copy_manager.pacer import Limit
from daiko.pair.live_pair import JournalStatus, PairStatus
from daiko.pair.pairs import Effect
from daiko.pair.state import Answer
from daiko.state.pair_record import Fence, PairState, Update

_CONFIRMED = Field(
    default=False, description="Data that would be overwritten or discarded is meant to be"
)


class JournalView(BaseModel):
    """The journal of an asynchronous pair, which it shares with its consistency group."""

    state: str = Field(
        description="`applying`, or why the secondary does not get anything, or why it has ended"
    )
    size: int = Field(description="Bytes")
    used: int = Field(description="Bytes of it that are taken")
    behind_bytes: int = Field(description="Written by hosts and not on the secondaries yet")
    behind_seconds: float = Field(description="How long ago the oldest of that was written")
    good_as_of: float | None = Field(
        description="Seconds since the epoch: the secondary has all that was acknowledged before, "
        "and is an earlier state of its whole group; null = it is a mixture, or not known"
    )

    @classmethod
    def of(cls, status: JournalStatus) -> Self:
        return cls(
            state=status.state,
            size=status.size,
            used=status.used,
            behind_bytes=status.behind_bytes,
            behind_seconds=round(status.behind_seconds, 3),
            good_as_of=status.good_as_of,
        )


class PairView(BaseModel):
    """A pair as it is now. Sizes in bytes."""

    name: str
    primary: str = Field(description="Volume that is copied from")
    secondary: str = Field(description="Volume that is copied to; SITE:VOLUME at another site")
    group: str = Field(description="Consistency group; empty = none")
    state: PairState
    reason: str = Field(
        description="Why it is in this state, where an error or a restart led there"
    )
    fence: Fence
    granularity: int = Field(description="Bytes a region of the differential bitmap")
    power_safe: bool = Field(description="The bitmap outlives a power cut")
    mixture: str = Field(
        description="Volume that copying to has not ended: it is neither as it was nor as the other"
    )
    size: int
    left: int = Field(description="Still to be copied; 0 unless it copies")
    differs: int = Field(description="In regions that may differ: what a resync copies at most")
    written_to_secondary: int = Field(
        description="Of these, in regions that hosts wrote to on the secondary"
    )
    percent: float = Field(description="Of all bytes, the same on both sides, 0 to 100")
    job: int | None = Field(description="The job that copies for it now")
    pace: str = Field(description="Of its copying")
    limited_by: Limit | None = Field(
        description="What of the pace holds back its copying beside jobs; null = nothing of it"
    )
    notes: list[str] = Field(
        description="What should be known besides: a bitmap that was lost, say"
    )
    site: str = Field(description="Site of the other volume; empty = both are here")
    is_followed: bool = Field(description="That site leads the pair")
    taken_over: bool = Field(
        description="The site that follows lets its hosts use its volume without the leader"
    )
    update: Update = Field(
        description="`sync`: a write is good when both sides have it; `async`: when the primary "
        "and the journal have it"
    )
    journal: JournalView | None = Field(
        description="Of an asynchronous pair that is led here; null = it has none"
    )
    good_as_of: float | None = Field(
        description="Of an asynchronous pair that another site leads, as that said last: the "
        "secondary has all that was acknowledged before (seconds since the epoch), and is an "
        "earlier state of its whole group; null = it is none, or that is not known"
    )
    created: float = Field(description="Seconds since the epoch")
    changed: float = Field(description="When the state became what it is")

    @classmethod
    def of(cls, status: PairStatus) -> Self:
        differs = max(status.differs, status.left)
        journal = None if status.journal is None else JournalView.of(status.journal)
        return cls(
            **{
                **dict(status.record),
                "journal": journal,
                "good_as_of": status.record.good_as_of or None,
            },
            size=status.size,
            left=status.left,
            differs=status.differs,
            written_to_secondary=status.written_to_secondary,
            percent=round(100 * (1 - differs / status.size), 1),
            job=status.job,
            limited_by=status.limited_by,
            notes=list(status.notes),
        )


class EffectView(BaseModel):
    """What a verb would do to a pair."""

    pair: str
    answer: Answer
    text: str = Field(description="What it does, or why it does not")
    volume: str = Field(description="That would be written to; empty = none")
    overwritten: int = Field(description="Bytes of it, at most")
    discarded: int = Field(
        description="Bytes of these in regions that hosts wrote to there since both were the same"
    )

    @classmethod
    def of(cls, effect: Effect) -> Self:
        return cls(
            pair=effect.pair,
            answer=effect.answer,
            text=effect.text,
            volume=effect.volume,
            overwritten=effect.overwritten,
            discarded=effect.discarded,
        )


class CreatePair(BaseModel, extra="forbid"):
    """A pair to make."""

    name: str = Field(examples=["alpha-mirror"])
    primary: str = Field(description="Volume whose data is kept", examples=["alpha"])
    secondary: str = Field(
        description="Volume that becomes like it; SITE:VOLUME for one that another site offers",
        examples=["beta", "osaka:beta"],
    )
    group: str = Field(default="", description="Consistency group; made with its first pair")
    fence: Fence = Field(
        default=Fence.NEVER,
        description="What hosts meet while the secondary is lost: `never` = the primary carries "
        "on, `data` = writes are refused",
    )
    granularity: int = Field(
        default=DEFAULT_GRANULARITY,
        description="Bytes a region of the differential bitmap: a power of two, 4 KiB to 1 MiB",
    )
    power_safe: bool = Field(
        default=True,
        description="Keep the bitmap over a power cut, with at most 1 GiB marked beyond what was; "
        "else a power cut marks everything",
    )
    pace: str = Field(default="full", description=PACE)
    update: Update = Field(
        default=Update.SYNC,
        description="`sync`: a write is good when both sides have it; `async`: when the primary "
        "and the journal have it, and the secondary is an earlier state of its whole group",
    )
    journal: int = Field(
        default=DEFAULT_JOURNAL,
        description="Bytes of the journal of asynchronous pairs, 1 MiB to 1 TiB; of a group the "
        "same for all of its pairs",
    )
    confirmed: bool = _CONFIRMED


class PacePair(BaseModel, extra="forbid"):
    """Another pace."""

    pace: str = Field(description=PACE, examples=["50MiB/s,latency:5ms"])


class AskPair(BaseModel, extra="forbid"):
    """A verb for a pair or a group."""

    confirmed: bool = _CONFIRMED


class EndPair(AskPair):
    """A verb that ends the updating of a pair or a group."""

    at_once: bool = Field(
        default=False,
        description="Asynchronous pairs: give up what is in the journal; else it comes to the "
        "secondary before",
    )


class ResyncPair(AskPair):
    """Bringing a pair together."""

    reverse: bool = Field(default=False, description="Copy from the secondary to the primary")


class DoneView(BaseModel):
    """What a verb has done."""

    changed: list[str] = Field(
        description="Pairs to which anything was done; none = there was nothing to do"
    )
    pairs: list[PairView] = Field(description="As they are now, without those that are gone")

    @classmethod
    def of(cls, done: Done) -> Self:
        return cls(changed=list(done.changed), pairs=[PairView.of(status) for status in done.pairs])
