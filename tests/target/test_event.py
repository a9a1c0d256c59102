"""The table of events, cell by cell, and who is told of what."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import daiko
from daiko.scsi.sense_code import NAMES
from daiko.target.access import Access
from daiko.target.event import IMPOSSIBLE, Event, Told, clears_all, rank
from daiko.target.unit_attention import UnitAttentions
from target.fake import Host, unit_of

TEST_UNIT_READY = bytes(6)

# event: ASC/ASCQ, who is told, rank, does it clear the others
BY_HAND = """
MEDIUM_MAY_HAVE_CHANGED    28/00 others    5 -
POWER_ON_OR_RESET          29/00 concerned 1 clears
TARGET_RESET               29/02 all       2 clears
LOGICAL_UNIT_RESET         29/03 all       3 clears
DEVICE_INTERNAL_RESET      29/04 all       0 clears
NEXUS_LOSS                 29/07 concerned 4 -
MODE_PARAMETERS_CHANGED    2A/01 others    5 -
LOG_PARAMETERS_CHANGED     2A/02 others    5 -
RESERVATIONS_PREEMPTED     2A/03 concerned 5 -
RESERVATIONS_RELEASED      2A/04 concerned 5 -
REGISTRATIONS_PREEMPTED    2A/05 concerned 5 -
ACCESS_STATE_CHANGED       2A/06 others    5 -
CAPACITY_CHANGED           2A/09 all       5 -
TIMESTAMP_CHANGED          2A/10 others    5 -
COMMANDS_CLEARED           2F/00 concerned 5 -
SOFT_THRESHOLD_REACHED     38/07 all       5 -
INQUIRY_DATA_CHANGED       3F/03 all       5 -
IDENTIFIER_CHANGED         3F/05 others    5 -
REPORTED_LUNS_CHANGED      3F/0E concerned 5 -
"""
EXPECTED = {line.split()[0]: line.split()[1:] for line in BY_HAND.strip().splitlines()}

EACH_EVENT = pytest.mark.parametrize("event", Event, ids=lambda event: event.name)


def test_table_has_exactly_the_events_written_down_by_hand() -> None:
    assert [event.name for event in Event] == list(EXPECTED)


@EACH_EVENT
def test_row_is_as_written_down_by_hand(event: Event) -> None:
    row = event.value
    assert EXPECTED[event.name] == [
        f"{row.asc:02X}/{row.ascq:02X}",
        row.told.name.lower(),
        str(rank(event.sense)),
        "clears" if clears_all(event.sense) else "-",
    ]


@EACH_EVENT
def test_condition_is_a_unit_attention_with_a_name_of_the_standard(event: Event) -> None:
    assert event.sense.key == 0x6
    assert (event.value.asc, event.value.ascq) in NAMES


def test_events_are_in_the_order_of_their_codes_and_each_is_there_once() -> None:
    codes = [(event.value.asc, event.value.ascq) for event in Event]
    assert codes == sorted(set(codes))


@EACH_EVENT
def test_somebody_announces_it(event: Event) -> None:
    source = Path(daiko.__file__).parent
    named = re.compile(rf"\bEvent\.{event.name}\b")
    assert any(
        named.search(file.read_text()) for file in source.rglob("*.py") if file.name != "event.py"
    )


def test_what_cannot_happen_is_no_event() -> None:
    possible = {f"{event.value.asc:02X}/{event.value.ascq:02X}" for event in Event}
    assert not possible & {code for _, code, _ in IMPOSSIBLE}


@EACH_EVENT
def test_announcement_reaches_those_that_the_row_names(event: Event) -> None:
    access = Access()
    unit = unit_of()
    access.publish({"*": {0: unit}})
    cause, other = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    itls = [next(iter(host.nexus.units.values())) for host in (cause, other)]
    unit.announce(event, by=itls[0], to=itls[1:])
    told = {
        Told.ALL: [True, True],
        Told.OTHERS: [False, True],
        Told.CONCERNED: [False, True],
    }[event.told]
    code = (0x6, event.value.asc, event.value.ascq)
    assert [host.run(TEST_UNIT_READY).condition == code for host in (cause, other)] == told
    assert [host.run(TEST_UNIT_READY).condition for host in (cause, other)] == [None, None]


@EACH_EVENT
@pytest.mark.parametrize("later", Event, ids=lambda event: event.name)
def test_order_of_two_conditions(event: Event, later: Event) -> None:
    """Whatever comes first, the one of the higher rank is reported first; a reset clears the rest;
    a lesser reset, or the loss of the nexus, adds nothing to a reset."""
    pending = UnitAttentions()
    pending.establish(event.sense)
    pending.establish(later.sense)
    if event is later:
        expected = [event]
    elif clears_all(event.sense) and clears_all(later.sense):
        expected = [event if rank(event.sense) <= rank(later.sense) else later]
    elif clears_all(later.sense) or (clears_all(event.sense) and later is Event.NEXUS_LOSS):
        expected = [later if clears_all(later.sense) else event]
    else:
        expected = sorted([event, later], key=lambda each: rank(each.sense))
    assert pending == [each.sense for each in expected]


def test_changed_luns_reported_by_one_unit_are_not_reported_by_the_next() -> None:
    access = Access()
    units = {lun: unit_of() for lun in range(3)}
    access.publish({"*": units})
    host = Host(access)
    access.publish({"*": {**units, 3: unit_of()}})
    assert host.run(TEST_UNIT_READY, lun=1).condition == (0x6, 0x3F, 0x0E)
    assert [host.run(TEST_UNIT_READY, lun=lun).condition for lun in range(3)] == [None] * 3
