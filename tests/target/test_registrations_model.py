"""Random sequences of PERSISTENT RESERVE OUT against a plain model of the rules."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from daiko.scsi.opcode import PersistentReserveOut as Out
from daiko.scsi.persistent_reservation import ReservationType as Type
from daiko.target.registrations import (
    ItNexus,
    Outcome,
    Registrations,
    cleared,
)
from target.registering import (
    A2,
    BAD_CDB,
    BAD_LIST,
    BAD_RELEASE,
    CONFLICT,
    EA,
    EA_AR,
    REGISTRATIONS,
    WE,
    WE_AR,
    A,
    B,
    C,
    ask,
    refusal,
)

NEXUSES = (A, B, C, A2)
keys = st.integers(0, 3)
types = st.sampled_from(Type)
nexuses = st.sampled_from(NEXUSES)


class Model(RuleBasedStateMachine):
    """The rules once more, told as what happens to a table of people and a sign on the door."""

    @initialize()
    def begin(self) -> None:
        self.state = Registrations()
        self.people: dict[ItNexus, int] = {}
        self.sign: tuple[Type, set[ItNexus]] | None = None
        self.count = 0

    def holders(self) -> set[ItNexus]:
        if self.sign is None:
            return set()
        return set(self.people) if self.sign[0] in (WE_AR, EA_AR) else self.sign[1]

    def leave(self, who: set[ItNexus]) -> None:
        were = self.holders()
        for each in who:
            self.people.pop(each, None)
        if were and not were - who:
            self.sign = None

    def check(self, outcome: Outcome, expected: object) -> bool:
        assert refusal(outcome) == expected
        self.state = outcome.state
        return expected is None

    def expected_of(self, by: ItNexus, key: int) -> object:
        return None if self.people.get(by) == key and by in self.people else CONFLICT

    @rule(by=nexuses, key=keys, new_key=keys)
    def register(self, by: ItNexus, key: int, new_key: int) -> None:
        expected = None if self.people.get(by, 0) == key else CONFLICT
        outcome = ask(self.state, Out.REGISTER, by, key, new_key=new_key)
        if self.check(outcome, expected):
            self.registered(by, new_key)

    @rule(by=nexuses, new_key=keys)
    def ignore(self, by: ItNexus, new_key: int) -> None:
        outcome = ask(self.state, Out.REGISTER_AND_IGNORE_EXISTING_KEY, by, 99, new_key=new_key)
        self.check(outcome, None)
        self.registered(by, new_key)

    def registered(self, by: ItNexus, new_key: int) -> None:
        if by not in self.people and not new_key:
            return
        self.count += 1
        if new_key:
            self.people[by] = new_key
        else:
            self.leave({by})

    @rule(by=nexuses, key=keys, type=types)
    def reserve(self, by: ItNexus, key: int, type: Type) -> None:
        expected = self.expected_of(by, key)
        if expected is None and self.sign is not None:
            same = by in self.holders() and self.sign[0] is type
            expected = None if same else CONFLICT
        outcome = ask(self.state, Out.RESERVE, by, key, type=type)
        if self.check(outcome, expected) and self.sign is None:
            self.sign = (type, {by})

    @rule(by=nexuses, key=keys, type=types)
    def release(self, by: ItNexus, key: int, type: Type) -> None:
        expected = self.expected_of(by, key)
        holds = by in self.holders()
        if expected is None and holds and self.sign is not None and self.sign[0] is not type:
            expected = BAD_RELEASE
        if self.check(ask(self.state, Out.RELEASE, by, key, type=type), expected) and holds:
            self.sign = None

    @rule(by=nexuses, key=keys)
    def clear(self, by: ItNexus, key: int) -> None:
        if self.check(ask(self.state, Out.CLEAR, by, key), self.expected_of(by, key)):
            self.people, self.sign = {}, None
            self.count += 1

    @rule(by=nexuses, key=keys, victim=keys, type=types, aborts=st.booleans())
    def preempt(self, by: ItNexus, key: int, victim: int, type: Type, aborts: bool) -> None:
        expected = self.expected_of(by, key)
        named = {nexus for nexus, has in self.people.items() if has == victim}
        of_all = self.sign is not None and self.sign[0] in (WE_AR, EA_AR)
        if expected is None and victim == 0 and not of_all:
            expected = BAD_LIST
        elif expected is None and victim and not named:
            expected = CONFLICT
        action = Out.PREEMPT_AND_ABORT if aborts else Out.PREEMPT
        outcome = ask(self.state, action, by, key, new_key=victim, type=type)
        if not self.check(outcome, expected):
            return
        self.count += 1
        if victim == 0:
            self.leave(set(self.people) - {by})
            self.sign = (type, {by})
        elif not of_all and self.holders() & named:
            self.leave(named - {by})
            self.sign = (type, {by})
        else:
            self.leave(named)
        lost = {nexus for nexus, event in outcome.told.items() if event is REGISTRATIONS}
        assert lost == (named or lost) - {by} if victim else lost.isdisjoint(self.people)

    @rule(by=nexuses, key=keys, new_key=keys, to=nexuses, unreg=st.booleans())
    def move(self, by: ItNexus, key: int, new_key: int, to: ItNexus, unreg: bool) -> None:
        expected = self.expected_of(by, key)
        if expected is None and self.sign is None:
            expected = BAD_CDB
        elif expected is None and (self.sign is None or by not in self.sign[1] or self.is_shared):
            expected = CONFLICT
        elif expected is None and (new_key == 0 or to[:2] == by[:2]):
            expected = BAD_LIST
        outcome = ask(
            self.state, Out.REGISTER_AND_MOVE, by, key, new_key=new_key, move_to=to, unreg=unreg
        )
        if not self.check(outcome, expected):
            return
        assert self.sign is not None
        self.count += 1
        self.people[to] = new_key
        self.sign = (self.sign[0], {to})
        if unreg:
            del self.people[by]

    @property
    def is_shared(self) -> bool:
        return self.sign is not None and self.sign[0] in (WE_AR, EA_AR)

    @precondition(lambda self: bool(self.people))
    @rule()
    def clear_by_administrator(self) -> None:
        self.state = cleared(self.state).state
        self.people, self.sign = {}, None
        self.count += 1

    @invariant()
    def both_say_the_same(self) -> None:
        assert dict(self.state.keys) == self.people
        assert self.state.type == (None if self.sign is None else self.sign[0])
        assert {nexus for nexus in NEXUSES if self.state.holds(nexus)} == self.holders()
        assert self.state.generation == self.count
        for nexus in NEXUSES:
            expected = (
                self.sign is None
                or nexus in self.holders()
                or (self.sign[0] not in (WE, EA) and nexus in self.people)
            )
            assert self.state.admits(nexus) is expected
        if self.sign is not None:
            assert self.state.holder_key == (
                0 if self.is_shared else self.people[next(iter(self.holders()))]
            )


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
