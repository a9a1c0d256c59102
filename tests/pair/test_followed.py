"""What a site does by the states that a leader says: every state said in every state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.backend.worker import Workers
from daiko.device.awaitable import write
from daiko.device.block import BlockDevice
from daiko.device.error import WriteProtected
from daiko.pair.error import NoSuchPair
from daiko.pair.followed import (
    BEFORE,
    LETS_IN,
    TAKES_OVER,
    CannotTakeOver,
    FollowedPair,
    FollowedPairs,
)
from daiko.pair.peer_door import PeerDoor
from daiko.pair.peers import CODES
from daiko.pair.state import COPIES, USES, Use
from daiko.pair.write_path import PairedDevice
from daiko.scsi.pair_envelopes import (
    MOST_MARKS,
    Answer,
    Head,
    Lend,
    Marks,
    Mixture,
    Return,
    State,
    Verdict,
)
from daiko.state.pair_record import PairRecord, PairState, Update
from daiko.state.sqlite import SqliteStore

BLOCKS = 4096
UUID = bytes(range(16))


@dataclass
class Volume:
    """A volume on a device in memory."""

    name: str = "beta"
    naa: str = "60" * 16
    device: BlockDevice = field(default_factory=lambda: MemoryDevice(BLOCKS, 512))
    layer: PairedDevice | None = None
    is_protected: bool = False
    generations: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.block_size, self.blocks = self.device.block_size, self.device.blocks
        self.made = PeerDoor(self.device)

    def door(self, site: str) -> PeerDoor:
        return self.made

    def put(self, layer: PairedDevice) -> None:
        self.layer = layer

    def take(self, layer: PairedDevice) -> None:
        self.layer = None

    def protect(self, protected: bool) -> None:
        self.is_protected = protected


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore.open(tmp_path / "store")
    yield store
    await store.close()


def record(state: PairState = PairState.COPYING, **changes: object) -> PairRecord:
    made = PairRecord(
        name="p", primary="tokyo:alpha", secondary="beta", state=state, site="tokyo",
        uuid=UUID.hex(), sequence=5, is_followed=True,
    )  # fmt: skip
    return made.model_copy(update=changes)


async def followed(
    store: SqliteStore, made: PairRecord, volume: Volume | None = None
) -> tuple[FollowedPairs, Volume]:
    volume = volume or Volume()
    workers = Workers(1, name="bitmap")
    pairs = FollowedPairs(store, {"beta": volume}.__getitem__, None, lambda: 1.0, workers)
    await pairs.create(made)
    return pairs, volume


def say(
    state: PairState, sequence: int = 6, *, mixture: Mixture = Mixture.NONE, settles: bool = False
) -> State:
    return State(Head(UUID, 1, sequence), CODES[state], mixture, settles, "")


async def can(device: BlockDevice) -> bool:
    try:
        await write(device, 0, bytes(512))
    except WriteProtected:
        return False
    return True


@pytest.mark.parametrize("said", PairState)
@pytest.mark.parametrize("before", PairState)
async def test_state_is_followed_where_it_can_be_and_both_doors_are_as_it_says(
    store: SqliteStore, before: PairState, said: PairState
) -> None:
    pairs, volume = await followed(store, record(before))
    pair = pairs.pair("p")
    pair.side.bitmap.mark(0, 1)
    answer = await pairs.follow(pair, say(said))
    is_followed = before in BEFORE[said]
    now = said if is_followed else before
    assert answer.verdict is (Verdict.ACCEPTED if is_followed else Verdict.REFUSED)
    assert (answer.state, pair.record.state) == (CODES[now], now)
    kept = store.get(PairRecord, "p")
    assert kept == pair.record
    assert kept.sequence == (6 if is_followed else 5)
    # What hosts marked is forgotten when both sides are the same, and not before.
    is_clear = is_followed and said is PairState.PAIRED
    assert bool(pair.side.bitmap.regions.set_regions) is not is_clear
    assert volume.layer is not None
    hosts_may = USES[now].secondary is Use.TRACKED
    assert (volume.is_protected, await can(volume.layer)) == (not hosts_may, hosts_may)
    assert await can(volume.made) is (now in LETS_IN)
    assert not (hosts_may and now in LETS_IN)
    await pairs.stop()


@pytest.mark.parametrize("state", PairState)
async def test_taking_over_shuts_the_leader_out_until_it_is_settled(
    store: SqliteStore, state: PairState
) -> None:
    pairs, volume = await followed(store, record(state))
    if state not in TAKES_OVER:
        with pytest.raises(CannotTakeOver, match=f"it is {state}"):
            await pairs.take_over("p")
        return
    await pairs.take_over("p")
    pair = pairs.pair("p")
    assert volume.layer is not None
    assert await can(volume.layer)
    assert not await can(volume.made)
    for said in PairState:
        answer = await pairs.follow(pair, say(said))
        assert (answer.verdict, answer.taken_over) == (Verdict.CONFLICT, True)
        if said not in COPIES:
            answer = await pairs.follow(pair, say(said, settles=True))
            assert answer.verdict is Verdict.CONFLICT
    assert (await pairs.follow(pair, say(PairState.COPYING, 4, settles=True))).verdict is (
        Verdict.STALE
    )
    answer = await pairs.follow(pair, say(PairState.COPYING, settles=True))
    assert (answer.verdict, answer.taken_over) == (Verdict.ACCEPTED, False)
    assert not await can(volume.layer)
    await pairs.stop()


async def test_mixture_is_not_taken_over(store: SqliteStore) -> None:
    pairs, _ = await followed(store, record(PairState.SPLIT, mixture="beta"))
    with pytest.raises(CannotTakeOver, match="beta is a mixture"):
        await pairs.take_over("p")
    await pairs.stop()


ASYNC = {"update": Update.ASYNC, "group": "g"}


@pytest.mark.parametrize("before", PairState)
async def test_earlier_state_that_is_copied_to_is_believed_where_both_were_the_same(
    store: SqliteStore, before: PairState
) -> None:
    pairs, volume = await followed(store, record(before, **ASYNC))
    pair = pairs.pair("p")
    answer = await pairs.follow(pair, say(PairState.COPYING))
    is_followed = before in BEFORE[PairState.PAIRED]
    assert answer.verdict is (Verdict.ACCEPTED if is_followed else Verdict.REFUSED)
    assert pair.record.is_draining is is_followed
    if is_followed:
        assert await can(volume.made)
        assert "as of when is not known" in pair.status.notes[1]
        await pairs.take_over("g")
        assert (pair.record.state, pair.record.taken_over) == (PairState.SWAPPED, True)
        assert not await can(volume.made)
    await pairs.stop()


async def test_synchronous_pair_that_copies_is_no_earlier_state(store: SqliteStore) -> None:
    pairs, _ = await followed(store, record(PairState.PAIRED))
    pair = pairs.pair("p")
    assert (await pairs.follow(pair, say(PairState.COPYING))).verdict is Verdict.ACCEPTED
    assert not pair.record.is_draining
    with pytest.raises(CannotTakeOver, match="it is copying"):
        await pairs.take_over("p")
    await pairs.stop()


async def test_what_is_good_is_kept_while_it_is_an_earlier_state(store: SqliteStore) -> None:
    pairs, _ = await followed(store, record(**ASYNC))
    pair = pairs.pair("p")
    await pairs.note_good(pair, 5, 100.0)
    assert not pair.record.good_as_of, "it is a mixture"
    await pairs.follow(pair, say(PairState.PAIRED))
    await pairs.note_good(pair, 5, 100.0)
    assert not pair.record.good_as_of, "of the state before"
    for moment, kept in ((100.0, 100.0), (110.0, 100.0), (0.0, 100.0), (160.0, 160.0)):
        await pairs.note_good(pair, 6, moment)
        found = store.get(PairRecord, "p")
        assert found is not None
        assert found.good_as_of == kept
    await pairs.follow(pair, say(PairState.COPYING, 7))
    assert pair.record.good_as_of == 160.0
    await pairs.follow(pair, say(PairState.COPYING, 8, mixture=Mixture.SECONDARY))
    assert (pair.record.term, pair.record.good_as_of) == (0, 0.0)
    await pairs.stop()


async def test_state_of_one_pair_says_that_the_lead_of_all_that_were_offered_is_taken(
    store: SqliteStore,
) -> None:
    """Else the lead of the others could be taken back, and two would lead one group."""
    pairs, _ = await followed(store, record(PairState.PAIRED, group="g", offered_lead=True))
    more = {"name": "q", "uuid": "11" * 16, "secondary": "gamma", "group": "g"}
    volumes = {"gamma": Volume("gamma"), "delta": Volume("delta")}
    pairs._volume = volumes.__getitem__
    await pairs.create(record(PairState.PAIRED, **more, offered_lead=True))
    await pairs.create(
        record(PairState.PAIRED, name="r", uuid="22" * 16, secondary="delta", offered_lead=True)
    )
    answer = await pairs.follow(pairs.pair("p"), say(PairState.SPLIT))
    assert answer.verdict is Verdict.ACCEPTED
    kept = {each.name: each for each in store.list(PairRecord)}
    assert {name for name, each in kept.items() if each.offered_lead} == {"r"}
    assert {pair.record for pair in pairs.all()} == set(kept.values())
    assert kept["q"].state is PairState.PAIRED


ASKED: dict[str, Callable[[FollowedPairs, FollowedPair], Awaitable[object]]] = {
    "a state": lambda pairs, pair: pairs.follow(pair, say(PairState.SPLIT)),
    "a loan": lambda pairs, pair: pairs.lend(pair, Lend(Head(UUID, 1, 5), 7)),
    "a return": lambda pairs, pair: pairs.take_back(pair, Return(Head(UUID, 1, 5), 0)),
    "what is good": lambda pairs, pair: pairs.note_good(pair, 5, 100.0),
    "the lead": lambda pairs, pair: pairs.lead_is_taken(["p"]),
    "taking over": lambda pairs, pair: pairs.take_over("p"),
    "the end": lambda pairs, pair: pairs.forget("p"),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_pair_that_is_led_here_by_the_time_its_lock_is_free_is_left_alone(
    store: SqliteStore, asked: str
) -> None:
    pairs, _ = await followed(store, record(PairState.PAIRED, update=Update.ASYNC, term=5))
    pair = pairs.pair("p")
    await pair.lock.acquire()
    task = asyncio.ensure_future(ASKED[asked](pairs, pair))
    await asyncio.sleep(0)
    pairs.release(pair)
    led = record(PairState.PAIRED, primary="beta", secondary="tokyo:alpha", is_followed=False)
    await store.put(led)
    pair.lock.release()
    (ended,) = await asyncio.gather(task, return_exceptions=True)
    assert store.get(PairRecord, "p") == led
    match asked:
        case "a state" | "a loan" | "a return":
            assert isinstance(ended, Answer)
            assert ended.verdict is Verdict.UNKNOWN
        case "taking over":
            assert isinstance(ended, CannotTakeOver)
        case "the end":
            assert isinstance(ended, NoSuchPair)
        case _:
            assert ended is None


async def test_mixture_is_called_by_our_names(store: SqliteStore) -> None:
    pairs, _ = await followed(store, record())
    pair = pairs.pair("p")
    for sequence, (mixture, name) in enumerate(
        ((Mixture.PRIMARY, "tokyo:alpha"), (Mixture.SECONDARY, "beta"), (Mixture.NONE, "")), 6
    ):
        answer = await pairs.follow(pair, say(PairState.SPLIT, sequence, mixture=mixture))
        assert (pair.record.mixture, answer.mixture) == (name, mixture)
    await pairs.stop()


async def test_marks_are_told_page_by_page_and_all_of_them(store: SqliteStore) -> None:
    # 4 KiB regions of a volume so large that its bitmap fills three answers.
    blocks = 3 * MOST_MARKS * 8 * 8 - 5
    volume = Volume(device=_Void(blocks))
    pairs, _ = await followed(store, record(granularity=4096), volume)
    pair = pairs.pair("p")
    regions = pair.side.bitmap.regions
    wanted = [0, 9, MOST_MARKS * 8 - 1, 2 * MOST_MARKS * 8 + 100, regions.regions - 1]
    for region in wanted:
        regions.mark(region, region)
    found, first, answers = [], 0, 0
    while True:
        answer = pair.marks(Marks(Head(UUID, 1, 5), first))
        answers += 1
        assert answer.verdict is Verdict.ACCEPTED
        for at, byte in enumerate(answer.bits):
            found += [answer.first + at * 8 + bit for bit in range(8) if byte >> bit & 1]
        if not answer.next:
            break
        first = answer.next
    assert (found, answers) == (wanted, 2)
    beyond = pair.marks(Marks(Head(UUID, 1, 5), (regions.regions + 7) // 8 * 8))
    assert (beyond.verdict, beyond.reason) == (Verdict.REFUSED, "there is no such region")
    await pairs.stop()


class _Void(MemoryDevice):
    """Of any size; nothing is read or written."""

    def __init__(self, blocks: int) -> None:
        super().__init__(8, 512)
        self.blocks = blocks
