"""What each PERSISTENT RESERVE OUT makes of the registrations: the tables of SPC-4, 5.13, cell by
cell. Random sequences of them are in `test_registrations_model.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from daiko.scsi.opcode import PersistentReserveOut as Out
from daiko.scsi.persistent_reservation import ReservationType as Type
from daiko.target.event import Event
from daiko.target.registrations import (
    MAXIMUM_REGISTRATIONS,
    ItNexus,
    Registrations,
    Request,
    carry_out,
    cleared,
)
from target.registering import (
    A2,
    A3,
    BAD_CDB,
    BAD_LIST,
    BAD_RELEASE,
    CONFLICT,
    EA,
    EA_AR,
    EA_RO,
    KEY_A,
    KEY_B,
    KEY_C,
    NO_ROOM,
    PREEMPTED,
    REGISTRATIONS,
    RELEASED,
    WE,
    WE_AR,
    WE_RO,
    A,
    B,
    C,
    D,
    ask,
    refusal,
    state_of,
)

# --- tables 67 and 68: registering ---------------------------------------------------------------

NOTHING, REGISTERED, CHANGED, GONE = "nothing", "registered", "changed", "gone"


@pytest.mark.parametrize(
    ("by", "key", "new_key", "spec_i_pt", "result"),
    [
        (D, 0, 0, False, NOTHING),
        (D, 0, 0, True, NOTHING),
        (D, 0, 9, False, REGISTERED),
        (D, 0, 9, True, REGISTERED),
        (D, 1, 0, False, CONFLICT),
        (D, 1, 0, True, CONFLICT),
        (D, 1, 9, False, CONFLICT),
        (D, 1, 9, True, CONFLICT),
        (A, 0, 9, False, CONFLICT),
        (A, 0, 0, False, CONFLICT),
        (A, KEY_B, 9, False, CONFLICT),
        (A, KEY_B, 0, True, CONFLICT),
        (A, KEY_A, 0, False, GONE),
        (A, KEY_A, 0, True, BAD_LIST),
        (A, KEY_A, 9, False, CHANGED),
        (A, KEY_A, 9, True, BAD_LIST),
    ],
)
def test_register_is_as_in_table_67(
    by: ItNexus, key: int, new_key: int, spec_i_pt: bool, result: object
) -> None:
    _check_register(Out.REGISTER, by, key, new_key, spec_i_pt, result)


@pytest.mark.parametrize("key", [0, KEY_A, 77])
@pytest.mark.parametrize(
    ("by", "new_key", "result"),
    [(D, 0, NOTHING), (D, 9, REGISTERED), (A, 0, GONE), (A, 9, CHANGED)],
)
def test_register_and_ignore_existing_key_is_as_in_table_68(
    by: ItNexus, new_key: int, result: object, key: int
) -> None:
    _check_register(Out.REGISTER_AND_IGNORE_EXISTING_KEY, by, key, new_key, False, result)


def _check_register(
    action: Out, by: ItNexus, key: int, new_key: int, spec_i_pt: bool, result: object
) -> None:
    before = state_of()
    outcome = ask(before, action, by, key, new_key=new_key, spec_i_pt=spec_i_pt, aptpl=True)
    expected = dict(before.keys)
    if result in (REGISTERED, CHANGED):
        expected[by] = new_key
    elif result == GONE:
        del expected[by]
    else:
        assert refusal(outcome) == (None if result == NOTHING else result)
    assert dict(outcome.state.keys) == expected
    has_changed = result in (REGISTERED, CHANGED, GONE)
    assert outcome.state.generation == int(has_changed)
    assert outcome.state.is_kept is has_changed


@pytest.mark.parametrize("type", Type)
def test_registering_and_another_key_change_no_reservation(type: Type) -> None:
    state = state_of(type)
    for request in (
        Request(Out.REGISTER, D, 0, 9),
        Request(Out.REGISTER, A, KEY_A, 9),
        Request(Out.REGISTER_AND_IGNORE_EXISTING_KEY, A, 0, 9),
    ):
        after = carry_out(state, request).state
        assert (after.type, after.holder) == (state.type, state.holder)
        assert after.holder_key == (0 if type.is_all_registrants else after.keys[A])


@pytest.mark.parametrize(
    ("type", "is_released", "told"),
    [
        (WE, True, {}),
        (EA, True, {}),
        (WE_RO, True, {B: RELEASED, C: RELEASED}),
        (EA_RO, True, {B: RELEASED, C: RELEASED}),
        (WE_AR, False, {}),
        (EA_AR, False, {}),
    ],
)
def test_unregistering_the_holder_releases_and_tells_registrants(
    type: Type, is_released: bool, told: dict[ItNexus, Event]
) -> None:
    outcome = ask(state_of(type), Out.REGISTER, A, KEY_A)
    assert (outcome.state.type is None) is is_released
    assert outcome.told == told


@pytest.mark.parametrize("type", Type)
def test_unregistering_another_changes_nothing_else(type: Type) -> None:
    outcome = ask(state_of(type), Out.REGISTER, B, KEY_B)
    assert (outcome.state.type, outcome.state.holds(A)) == (type, True)
    assert not outcome.told


@pytest.mark.parametrize("type", [WE_AR, EA_AR])
def test_last_of_all_registrants_takes_the_reservation_along(type: Type) -> None:
    state = state_of(type)
    for by, key in ((A, KEY_A), (C, KEY_C), (B, KEY_B)):
        assert state.type is type
        outcome = ask(state, Out.REGISTER, by, key)
        assert not outcome.told
        state = outcome.state
    assert (state.type, dict(state.keys)) == (None, {})


# --- SPEC_I_PT and ALL_TG_PT: table 69 -----------------------------------------------------------


def test_ports_that_are_named_are_registered_with_the_same_key() -> None:
    outcome = ask(Registrations(), Out.REGISTER, A, 0, new_key=9, spec_i_pt=True, others=(B, A, C))
    assert dict(outcome.state.keys) == {A: 9, B: 9, C: 9}


def test_no_port_is_registered_where_one_is_already() -> None:
    before = Registrations({B: KEY_B})
    outcome = ask(before, Out.REGISTER, A, 0, new_key=9, spec_i_pt=True, others=(C, B))
    assert refusal(outcome) == BAD_LIST


def test_all_target_ports_are_registered_for_each_initiator_port() -> None:
    outcome = ask(
        Registrations(), Out.REGISTER, A, 0, new_key=9, spec_i_pt=True, others=(B,),
        target_ports=(1, 2, 3),
    )  # fmt: skip
    ports = [nexus._replace(target_port=port) for nexus in (A, B) for port in (1, 2, 3)]
    assert set(outcome.state.keys) == set(ports)


@pytest.mark.parametrize(
    ("before", "action", "key", "new_key", "after"),
    [
        pytest.param({A: 1, A2: 1}, Out.REGISTER, 1, 9, {A: 9, A2: 9}, id="changes both"),
        pytest.param({A: 1, A2: 1}, Out.REGISTER, 1, 0, {}, id="removes both"),
        pytest.param({A: 1, A2: 2}, Out.REGISTER, 1, 9, None, id="another key: conflict"),
        pytest.param({A2: 2}, Out.REGISTER, 0, 9, None, id="registered by the other: conflict"),
        pytest.param(
            {A: 1, A2: 2}, Out.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 9, {A: 9, A2: 9, A3: 9},
            id="ignores both keys",
        ),
        pytest.param(
            {A: 1, A2: 2}, Out.REGISTER_AND_IGNORE_EXISTING_KEY, 0, 0, {}, id="removes whatever"
        ),
    ],
)  # fmt: skip
def test_all_target_ports_is_as_if_the_command_came_by_each(
    before: dict[ItNexus, int],
    action: Out,
    key: int,
    new_key: int,
    after: dict[ItNexus, int] | None,
) -> None:
    outcome = ask(Registrations(before), action, A, key, new_key=new_key, target_ports=(1, 2, 3))
    assert refusal(outcome) == (CONFLICT if after is None else None)
    assert dict(outcome.state.keys) == (before if after is None else after)


def test_there_is_room_for_so_many_and_not_one_more() -> None:
    nexuses = [ItNexus("iqn.x", number.to_bytes(6, "big"), 1) for number in range(2000)]
    full = Registrations(dict.fromkeys(nexuses[: MAXIMUM_REGISTRATIONS - 1], 1))
    last = ask(full, Out.REGISTER, A, new_key=9)
    assert len(last.state.keys) == MAXIMUM_REGISTRATIONS
    assert refusal(ask(last.state, Out.REGISTER, B, new_key=9)) == NO_ROOM
    assert refusal(ask(last.state, Out.REGISTER, A, 9, new_key=8)) is None
    two = ask(full, Out.REGISTER, A, new_key=9, spec_i_pt=True, others=(B,))
    assert refusal(two) == NO_ROOM


# --- reserving and releasing ---------------------------------------------------------------------

REGISTERED_ONLY = [each for each in Out if each.name in (
    "RESERVE", "RELEASE", "CLEAR", "PREEMPT", "PREEMPT_AND_ABORT", "REGISTER_AND_MOVE"
)]  # fmt: skip


@pytest.mark.parametrize("action", REGISTERED_ONLY, ids=lambda action: action.name)
@pytest.mark.parametrize(("by", "key"), [(D, 0), (D, KEY_A), (A, 0), (A, KEY_B)])
def test_only_a_registered_nexus_with_its_key_may_do_more_than_register(
    action: Out, by: ItNexus, key: int
) -> None:
    for state in (state_of(), state_of(WE), state_of(EA_AR)):
        outcome = ask(state, action, by, key, new_key=KEY_B, type=WE, move_to=D)
        assert refusal(outcome) == CONFLICT


@pytest.mark.parametrize("held", [None, *Type])
@pytest.mark.parametrize("wanted", Type)
def test_reserve_is_granted_where_nobody_or_the_same_holder_has_it(
    held: Type | None, wanted: Type
) -> None:
    state = state_of(held)
    of_holder = ask(state, Out.RESERVE, A, KEY_A, type=wanted)
    of_other = ask(state, Out.RESERVE, B, KEY_B, type=wanted)
    assert refusal(of_holder) == (None if held in (None, wanted) else CONFLICT)
    is_holder_too = held is not None and held.is_all_registrants and held is wanted
    assert refusal(of_other) == (None if held is None or is_holder_too else CONFLICT)
    if held is None:
        assert of_other.state.holds(B)
        assert of_other.state.holds(A) is wanted.is_all_registrants
        assert of_other.state.generation == 0


@pytest.mark.parametrize("held", Type)
@pytest.mark.parametrize("wanted", Type)
def test_release_is_for_the_holder_with_the_type(held: Type, wanted: Type) -> None:
    state = state_of(held)
    of_holder = ask(state, Out.RELEASE, A, KEY_A, type=wanted)
    if held is not wanted:
        assert refusal(of_holder) == BAD_RELEASE
    else:
        assert of_holder.state.type is None
        assert dict(of_holder.state.keys) == dict(state.keys)
        told = {B: RELEASED, C: RELEASED} if held not in (WE, EA) else {}
        assert of_holder.told == told
    of_other = ask(state, Out.RELEASE, B, KEY_B, type=wanted)
    if not held.is_all_registrants:
        assert refusal(of_other) is None
        assert of_other.state is state
    else:
        assert refusal(of_other) == (None if held is wanted else BAD_RELEASE)


def test_release_of_nothing_is_good() -> None:
    state = state_of()
    outcome = ask(state, Out.RELEASE, A, KEY_A, type=WE)
    assert (refusal(outcome), outcome.state) == (None, state)


@pytest.mark.parametrize("held", [None, *Type])
def test_clear_removes_everything_and_tells_the_others(held: Type | None) -> None:
    outcome = ask(state_of(held, is_kept=True), Out.CLEAR, B, KEY_B)
    assert outcome.state == Registrations(is_kept=True, generation=1)
    assert outcome.told == {A: PREEMPTED, C: PREEMPTED}


# --- table 72: preempting ------------------------------------------------------------------------

PREEMPTS = pytest.mark.parametrize("action", [Out.PREEMPT, Out.PREEMPT_AND_ABORT])


@PREEMPTS
@pytest.mark.parametrize("held", [None, WE, EA, WE_RO, EA_RO])
def test_key_0_preempts_nobody_but_all_registrants(action: Out, held: Type | None) -> None:
    outcome = ask(state_of(held), action, B, KEY_B, new_key=0, type=WE)
    assert refusal(outcome) == BAD_LIST


@PREEMPTS
@pytest.mark.parametrize("held", [WE_AR, EA_AR])
@pytest.mark.parametrize("wanted", Type)
def test_key_0_takes_the_reservation_from_all_registrants(
    action: Out, held: Type, wanted: Type
) -> None:
    outcome = ask(state_of(held), action, B, KEY_B, new_key=0, type=wanted)
    assert dict(outcome.state.keys) == {B: KEY_B}
    assert (outcome.state.type, outcome.state.holds(B)) == (wanted, True)
    assert outcome.told == {A: REGISTRATIONS, C: REGISTRATIONS}
    assert outcome.preempted == {A, B, C}


@PREEMPTS
@pytest.mark.parametrize("held", [WE, EA, WE_RO, EA_RO])
@pytest.mark.parametrize("wanted", Type)
def test_holders_key_takes_the_reservation(action: Out, held: Type, wanted: Type) -> None:
    outcome = ask(state_of(held), action, B, KEY_B, new_key=KEY_A, type=wanted)
    assert dict(outcome.state.keys) == {B: KEY_B, C: KEY_C}
    assert (outcome.state.type, outcome.state.holds(B)) == (wanted, True)
    has_changed = {} if held is wanted else {C: RELEASED}
    assert outcome.told == {A: REGISTRATIONS, **has_changed}
    assert outcome.preempted == {A}
    assert outcome.state.generation == 1


@PREEMPTS
@pytest.mark.parametrize("held", [None, *Type])
def test_another_key_removes_registrations_only(action: Out, held: Type | None) -> None:
    outcome = ask(state_of(held), action, B, KEY_B, new_key=KEY_C, type=EA)
    assert dict(outcome.state.keys) == {A: KEY_A, B: KEY_B}
    assert (outcome.state.type, outcome.state.holder) == (held, state_of(held).holder)
    assert outcome.told == {C: REGISTRATIONS}
    assert outcome.preempted == {C}


@PREEMPTS
@pytest.mark.parametrize("held", [None, *Type])
def test_key_that_nobody_has_conflicts(action: Out, held: Type | None) -> None:
    assert refusal(ask(state_of(held), action, B, KEY_B, new_key=77, type=WE)) == CONFLICT


@pytest.mark.parametrize("held", [WE, EA, WE_RO, EA_RO])
@pytest.mark.parametrize("wanted", Type)
def test_holder_that_preempts_itself_changes_the_type_and_stays(held: Type, wanted: Type) -> None:
    outcome = ask(state_of(held), Out.PREEMPT, A, KEY_A, new_key=KEY_A, type=wanted)
    assert dict(outcome.state.keys) == dict(state_of().keys)
    assert (outcome.state.type, outcome.state.holds(A)) == (wanted, True)
    assert outcome.told == ({} if held is wanted else {B: RELEASED, C: RELEASED})


@pytest.mark.parametrize("held", [None, WE, EA_RO])
def test_registrant_that_names_its_own_key_is_removed_without_a_word(held: Type | None) -> None:
    outcome = ask(state_of(held), Out.PREEMPT, B, KEY_B, new_key=KEY_B, type=WE)
    assert dict(outcome.state.keys) == {A: KEY_A, C: KEY_C}
    assert not outcome.told


def test_all_who_have_the_holders_key_are_removed_but_the_one_that_preempts() -> None:
    shared = Registrations({A: 1, B: 1, C: 1, D: 4}).reserved(WE_RO, A)
    outcome = ask(shared, Out.PREEMPT, B, 1, new_key=1, type=WE_RO)
    assert dict(outcome.state.keys) == {B: 1, D: 4}
    assert outcome.state.holder == B
    assert outcome.told == {A: REGISTRATIONS, C: REGISTRATIONS}


def test_all_registrants_that_remove_their_own_key_leave_nothing() -> None:
    shared = Registrations({A: 1, B: 1}).reserved(EA_AR, A)
    outcome = ask(shared, Out.PREEMPT, A, 1, new_key=1, type=WE)
    assert (dict(outcome.state.keys), outcome.state.type) == ({}, None)
    assert outcome.told == {B: REGISTRATIONS}


# --- table 70: registering and moving ------------------------------------------------------------


@pytest.mark.parametrize("held", [WE, EA, WE_RO, EA_RO])
@pytest.mark.parametrize("unreg", [False, True])
@pytest.mark.parametrize("to", [B, D])
def test_holder_moves_its_reservation(held: Type, unreg: bool, to: ItNexus) -> None:
    state = state_of(held)
    outcome = ask(
        state, Out.REGISTER_AND_MOVE, A, KEY_A, new_key=9, move_to=to, unreg=unreg, aptpl=True
    )
    assert (outcome.state.type, outcome.state.holder) == (held, to)
    expected = {**state.keys, to: 9}
    if unreg:
        del expected[A]
    assert dict(outcome.state.keys) == expected
    assert (outcome.state.generation, outcome.state.is_kept) == (1, True)
    assert not outcome.told


@pytest.mark.parametrize(
    ("state", "by", "key", "fields", "result"),
    [
        pytest.param(state_of(), A, KEY_A, {}, BAD_CDB, id="no reservation"),
        pytest.param(state_of(WE_AR), A, KEY_A, {}, CONFLICT, id="all registrants hold it"),
        pytest.param(state_of(WE), B, KEY_B, {}, CONFLICT, id="not the holder"),
        pytest.param(state_of(WE), A, KEY_A, {"new_key": 0}, BAD_LIST, id="to the key 0"),
        pytest.param(state_of(WE), A, KEY_A, {"move_to": A}, BAD_LIST, id="to itself"),
        pytest.param(
            state_of(WE), A, KEY_A, {"move_to": A2}, BAD_LIST, id="to itself at another port"
        ),
        pytest.param(
            state_of(WE), A, KEY_A, {"move_to": None, "wrong_byte": 18}, BAD_LIST, id="nowhere"
        ),
    ],
)
def test_move_is_refused(
    state: Registrations, by: ItNexus, key: int, fields: dict[str, object], result: object
) -> None:
    fields = {"new_key": 9, "move_to": D, **fields}
    assert refusal(ask(state, Out.REGISTER_AND_MOVE, by, key, **fields)) == result


def test_clear_by_an_administrator_tells_all_and_forgets_to_keep() -> None:
    outcome = cleared(state_of(EA_RO, is_kept=True, generation=0xFFFFFFFF))
    assert outcome.state == Registrations()
    assert outcome.told == dict.fromkeys((A, B, C), PREEMPTED)


def test_generation_wraps() -> None:
    state = replace(state_of(), generation=0xFFFFFFFF)
    assert ask(state, Out.REGISTER, D, 0, new_key=1).state.generation == 0
