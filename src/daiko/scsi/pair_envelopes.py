"""What first controllers of two sites say to one another of their pairs: the contents of envelopes
(PAIR OUT, PAIR IN; docs/protocol.md, "Pairs").

Theory of operation. The controller that leads a pair asks, the other one answers: a request goes
out in a PAIR OUT, and a PAIR IN then gives the ANSWER to the request that came last. All requests
can be repeated without harm, since nobody knows of one that got no status whether it arrived.

Each begins with the same 32 bytes (`PairHead`): which pair, which request, and the *sequence*, a
number that grows with each state of the pair, so that what comes late can be told from what is new.

Contents are read from untrusted bytes: `read` raises MalformedData for what no honest peer says,
and ignores what stands behind the fields that it knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Final, Self

from daiko.scsi.layout import Layout, MalformedData, bit, number, octets
from daiko.scsi.site_values import (
    BLOCK_SIZES,
    LARGEST_ADDRESS,
    BodyReader,
    Envelope,
    counted_text,
)

VERSION: Final = 1
"""Of all kinds of envelopes here."""
MOST_EXCHANGED: Final = 4096
"""Pairs of one EXCHANGE."""
MOST_MARKS: Final = 48 << 10
"""Bytes of a bitmap in one ANSWER, so that it fits one page with all else."""
GRANULARITIES: Final = (4 << 10, 1 << 20)
"""Bytes a region, at least and at most; a power of two."""


class PairKind(IntEnum):
    """KIND of an envelope."""

    JOIN = 1
    """A volume of mine is to be kept on the volume of yours that is offered to me."""
    STATE = 2
    """The pair is in this state now."""
    MARKS = 3
    """Which regions of your volume may differ?"""
    LEAVE = 4
    """The pair is no more."""
    ASK = 5
    """How is the pair with you?"""
    ANSWER = 6
    """To the request that came last."""
    LEND = 7
    """From now on my second controllers write to the devices under your volume."""
    RETURN = 8
    """They have ended."""
    EXCHANGE = 9
    """From now on you lead, and I follow."""


class StateCode(IntEnum):
    """States of a pair (docs/reference/pairs.md)."""

    NONE = 0
    COPYING = 1
    PAIRED = 2
    SPLIT = 3
    SPLIT_BY_ERROR = 4
    REVERSE_COPYING = 5
    SWAPPED = 6


class Mixture(IntEnum):
    """The side that is neither as it was nor as the other."""

    NONE = 0
    PRIMARY = 1
    SECONDARY = 2


class Verdict(IntEnum):
    """What became of a request."""

    ACCEPTED = 0
    REFUSED = 1
    """For the reason given; nothing was changed."""
    STALE = 2
    """A later sequence is known here; nothing was changed."""
    UNKNOWN = 3
    """No such pair with this peer."""
    CONFLICT = 4
    """This side has taken over: an administrator has to say whose data counts."""


_HEAD = Layout(
    "PairHead",
    32,
    octets("pair", 0, 16),
    number("request", 16, 8),
    number("sequence", 24, 8),
)
_JOIN = Layout(
    "JoinContents",
    56,
    octets("primary_naa", 0, 16),
    octets("secondary_naa", 16, 16),
    number("blocks", 32, 8),
    number("block_size", 40, 4),
    number("granularity", 44, 4),
    bit("power_safe", 48, 0),
    bit("is_async", 48, 1),
)
_STATE = Layout(
    "StateContents",
    8,
    number("state", 0, 1),
    number("mixture", 1, 1),
    bit("settles", 2, 0),
)
_MARKS = Layout("MarksContents", 8, number("first", 0, 8))
_LOAN = Layout("LoanContents", 8, number("loan", 0, 4))
_EXCHANGE = Layout("ExchangeContents", 8, number("state", 0, 1), number("pairs", 2, 2))
_EXCHANGED = Layout(
    "ExchangedPair",
    40,
    octets("pair", 0, 16),
    number("sequence", 16, 8),
    bit("fenced", 24, 0),
    number("journal", 32, 8),
)
_ANSWER = Layout(
    "AnswerContents",
    40,
    number("verdict", 0, 1),
    number("state", 1, 1),
    number("mixture", 2, 1),
    bit("taken_over", 3, 0),
    bit("leads", 3, 1),
    number("loan", 4, 4),
    number("marked", 8, 8),
    number("first", 16, 8),
    number("next", 24, 8),
    number("length", 32, 4),
    number("good_as_of", 36, 4),
)


def _code(what: str, kind: type[Any], value: int) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise MalformedData(f"{what} {value} is none") from None


@dataclass(frozen=True, slots=True)
class Head:
    """What every envelope of a pair begins with."""

    pair: bytes
    """UUID of the pair, 16 bytes."""
    request: int
    """Chosen by who asks, 8 bytes; the answer has the same."""
    sequence: int
    """Of the state of the pair that is known to who speaks."""

    def pack(self) -> bytes:
        return _HEAD.pack(pair=self.pair, request=self.request, sequence=self.sequence)


@dataclass(frozen=True, slots=True)
class Join:
    """A pair that the speaker will lead."""

    kind: ClassVar[PairKind] = PairKind.JOIN
    head: Head
    name: str
    group: str
    primary: str
    """Name of the speaker's volume."""
    secondary: str
    """Name of the volume that it is offered."""
    primary_naa: bytes
    secondary_naa: bytes
    blocks: int
    block_size: int
    """Bytes."""
    granularity: int
    """Bytes a region of the differential bitmaps of both sides."""
    power_safe: bool
    is_async: bool = False
    """The secondary is an earlier state: it gets what hosts write later, in order."""

    def tail(self) -> bytes:
        """What follows the head. Raises ValueError where something does not fit."""
        fixed = _JOIN.pack(**{each.name: getattr(self, each.name) for each in _JOIN.fields})
        texts = (self.name, self.group, self.primary, self.secondary)
        return fixed + b"".join(map(counted_text, texts))

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        """Raises MalformedData."""
        said = _JOIN.unpack(tail)
        rest = BodyReader("JOIN", tail, _JOIN.length)
        name, group, primary, secondary = (rest.text() for _ in range(4))
        if said.block_size not in BLOCK_SIZES:
            raise MalformedData(f"JOIN: blocks of {said.block_size} bytes")
        if not 1 <= said.blocks <= LARGEST_ADDRESS:
            raise MalformedData(f"JOIN: a volume of {said.blocks} blocks")
        size, (least, most) = said.granularity, GRANULARITIES
        if size & (size - 1) or not least <= size <= most:
            raise MalformedData(f"JOIN: regions of {size} bytes")
        if any(naa[0] >> 4 != 6 for naa in (said.primary_naa, said.secondary_naa)):
            raise MalformedData("JOIN: an identity that is no NAA 6")
        return cls(
            head, name, group, primary, secondary, said.primary_naa, said.secondary_naa,
            said.blocks, said.block_size, size, bool(said.power_safe), bool(said.is_async),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class State:
    """The state of a pair, as who leads it has it in its store."""

    kind: ClassVar[PairKind] = PairKind.STATE
    head: Head
    state: StateCode
    mixture: Mixture
    settles: bool
    """An administrator has said whose data counts: this holds even where the other side has taken
    over."""
    reason: str

    def tail(self) -> bytes:
        """What follows the head. Raises ValueError where something does not fit."""
        fixed = _STATE.pack(state=self.state, mixture=self.mixture, settles=self.settles)
        return fixed + counted_text(self.reason)

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        """Raises MalformedData."""
        said = _STATE.unpack(tail)
        state = _code("STATE: state", StateCode, said.state)
        if state is StateCode.NONE:
            raise MalformedData("STATE: no state")
        mixture = _code("STATE: mixture", Mixture, said.mixture)
        reason = BodyReader("STATE", tail, _STATE.length).text()
        return cls(head, state, mixture, bool(said.settles), reason)


@dataclass(frozen=True, slots=True)
class Marks:
    """Asks for the marks of the other side."""

    kind: ClassVar[PairKind] = PairKind.MARKS
    head: Head
    first: int
    """Region from which on they are wanted; a multiple of 8."""

    def tail(self) -> bytes:
        return _MARKS.pack(first=self.first)

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        """Raises MalformedData."""
        first = _MARKS.unpack(tail)[0]
        if first & 7:
            raise MalformedData(f"MARKS: from region {first} on, which begins no byte")
        return cls(head, first)


@dataclass(frozen=True, slots=True)
class _HeadAlone:
    """Says no more than its kind and its head."""

    head: Head

    def tail(self) -> bytes:
        return b""

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        return cls(head)


@dataclass(frozen=True, slots=True)
class Leave(_HeadAlone):
    """The speaker has forgotten the pair."""

    kind: ClassVar[PairKind] = PairKind.LEAVE


@dataclass(frozen=True, slots=True)
class Ask(_HeadAlone):
    """Asks how the pair is."""

    kind: ClassVar[PairKind] = PairKind.ASK


@dataclass(frozen=True, slots=True)
class _OfLoan:
    """Names a loan: the time for which the speaker's second controllers may write to the devices
    under the other side's volume, past its first controller."""

    head: Head
    loan: int
    """Chosen by who leads; not 0."""

    def tail(self) -> bytes:
        return _LOAN.pack(loan=self.loan)

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        """Raises MalformedData."""
        loan = _LOAN.unpack(tail)[0]
        if not loan:
            raise MalformedData("a loan without a number")
        return cls(head, loan)


@dataclass(frozen=True, slots=True)
class Lend(_OfLoan):
    """Asks for the loan. In the place of one that there is: that was not said to have ended."""

    kind: ClassVar[PairKind] = PairKind.LEND


@dataclass(frozen=True, slots=True)
class Return(_OfLoan):
    """Nothing of this loan is under way any more."""

    kind: ClassVar[PairKind] = PairKind.RETURN


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One pair whose roles are exchanged."""

    pair: bytes
    """UUID, 16 bytes."""
    sequence: int
    """Of its state from now on."""
    fenced: bool
    """Hosts are refused writes while the other side is lost."""
    pace: str
    """Of its copying."""
    journal: int = 0
    """Bytes of the journal of an asynchronous pair, which the new leader makes; else 0."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The roles of these pairs, of all or of none, are exchanged: who followed leads. The speaker
    follows already."""

    kind: ClassVar[PairKind] = PairKind.EXCHANGE
    head: Head
    """Of the first of the pairs."""
    state: StateCode
    """Of all of them from now on: PAIRED, or COPYING to the speaker's volumes."""
    pairs: tuple[Exchanged, ...]

    def tail(self) -> bytes:
        """What follows the head. Raises ValueError where something does not fit."""
        if not 1 <= len(self.pairs) <= MOST_EXCHANGED:
            raise ValueError(f"{len(self.pairs)} pairs exchanged at once")
        fixed = _EXCHANGE.pack(state=self.state, pairs=len(self.pairs))
        return fixed + b"".join(
            _EXCHANGED.pack(
                pair=each.pair, sequence=each.sequence, journal=each.journal, fenced=each.fenced
            )
            + counted_text(each.pace)
            for each in self.pairs
        )

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        """Raises MalformedData."""
        said = _EXCHANGE.unpack(tail)
        state = _code("EXCHANGE: state", StateCode, said.state)
        if state not in (StateCode.PAIRED, StateCode.COPYING):
            raise MalformedData(f"EXCHANGE: to {state.name}")
        if not 1 <= said.pairs <= MOST_EXCHANGED:
            raise MalformedData(f"EXCHANGE: {said.pairs} pairs")
        rest = BodyReader("EXCHANGE", tail, _EXCHANGE.length)
        pairs = []
        for _ in range(said.pairs):
            one = _EXCHANGED.unpack(rest.octets(_EXCHANGED.length))
            pairs.append(
                Exchanged(one.pair, one.sequence, bool(one.fenced), rest.text(), one.journal)
            )
        if (pairs[0].pair, pairs[0].sequence) != (head.pair, head.sequence):
            raise MalformedData("EXCHANGE: another pair than its head says")
        if len({each.pair for each in pairs}) != len(pairs):
            raise MalformedData("EXCHANGE: a pair twice")
        return cls(head, state, tuple(pairs))


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request, and how the pair is here afterwards."""

    kind: ClassVar[PairKind] = PairKind.ANSWER
    head: Head
    verdict: Verdict
    state: StateCode = StateCode.NONE
    """NONE: there is no such pair here."""
    mixture: Mixture = Mixture.NONE
    taken_over: bool = False
    """The administrator of this side has let its hosts use it on his own account."""
    marked: int = 0
    """Bytes in regions that hosts wrote to on this side since both were the same."""
    reason: str = ""
    first: int = 0
    """To MARKS: the region of the first bit, a multiple of 8."""
    next: int = 0
    """To MARKS: where to ask next; 0 = these were the last."""
    bits: bytes = b""
    """Region `first + n` is bit `n & 7` of byte `n >> 3`. None before `first`, and none between
    these and `next`, are set."""
    loan: int = 0
    """The loan that was not returned yet; 0 = none, or the speaker knows of no loans."""
    leads: bool = False
    """The speaker leads the pair; else it follows, or is of a version that does not say."""
    good_as_of: int = 0
    """Of who leads an asynchronous pair: the secondary has everything that was acknowledged before,
    in whole seconds since the epoch, and is an earlier state of its whole group. 0 = it is none,
    or that is not known."""

    def tail(self) -> bytes:
        """What follows the head. Raises ValueError where something does not fit."""
        if len(self.bits) > MOST_MARKS:
            raise ValueError(f"{len(self.bits)} bytes of marks")
        fixed = _ANSWER.pack(
            verdict=self.verdict, state=self.state, mixture=self.mixture,
            taken_over=self.taken_over, marked=self.marked, first=self.first, next=self.next,
            length=len(self.bits), loan=self.loan, leads=self.leads, good_as_of=self.good_as_of,
        )  # fmt: skip
        return fixed + counted_text(self.reason) + self.bits

    @classmethod
    def read(cls, head: Head, tail: bytes) -> Self:
        """Raises MalformedData."""
        said = _ANSWER.unpack(tail)
        rest = BodyReader("ANSWER", tail, _ANSWER.length)
        reason = rest.text()
        if said.length > MOST_MARKS:
            raise MalformedData(f"ANSWER: {said.length} bytes of marks")
        bits = rest.octets(said.length)
        if (said.first | said.next) & 7:
            raise MalformedData("ANSWER: marks that begin in the middle of a byte")
        if said.next and said.next < said.first + 8 * max(1, len(bits)):
            raise MalformedData("ANSWER: marks that do not go on")
        return cls(
            head,
            _code("ANSWER: verdict", Verdict, said.verdict),
            _code("ANSWER: state", StateCode, said.state),
            _code("ANSWER: mixture", Mixture, said.mixture),
            bool(said.taken_over), said.marked, reason, said.first, said.next, bits,
            said.loan, bool(said.leads), said.good_as_of,
        )  # fmt: skip


Request = Join | State | Marks | Leave | Ask | Lend | Return | Exchange
Message = Request | Answer

_KINDS: Final[dict[int, Any]] = {
    each.kind: each for each in (Join, State, Marks, Leave, Ask, Answer, Lend, Return, Exchange)
}


def envelope_of(message: Message) -> Envelope:
    """The envelope that it is sent in. Raises ValueError where something does not fit."""
    return Envelope(message.kind, VERSION, message.head.pack() + message.tail())


def message_of(envelope: Envelope) -> Message:
    """What an envelope says. Raises MalformedData, also for a kind or version that is not known
    here."""
    if envelope.version != VERSION or envelope.kind not in _KINDS:
        raise MalformedData(
            f"an envelope of kind {envelope.kind}, version {envelope.version}, is not known here"
        )
    head = Head(*_HEAD.unpack(envelope.contents))
    found: Message = _KINDS[envelope.kind].read(head, envelope.contents[_HEAD.length :])
    return found
