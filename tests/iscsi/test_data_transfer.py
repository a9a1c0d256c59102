"""Data of commands: bursts, R2Ts, residuals, and what a broken sequence leads to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daiko.iscsi.bhs import OVERFLOW, RESERVED_TAG, UNDERFLOW
from daiko.iscsi.data_transfer import (
    DataInTransfer,
    DataOutTransfer,
    data_in_pieces,
    first_burst,
    pieces,
    residual,
)
from daiko.iscsi.error import LocalProtocolError, RemoteProtocolError
from daiko.iscsi.event import DataOutEvent
from daiko.iscsi.negotiation import Parameters


def pattern(length: int) -> bytes:
    return bytes(index * 7 & 0xFF for index in range(length))


@pytest.mark.parametrize(
    ("expected", "actual", "result"),
    [(512, 512, (0, 0)), (1024, 512, (UNDERFLOW, 512)), (512, 2048, (OVERFLOW, 1536))],
)
def test_residual_is_the_difference_and_its_direction(
    expected: int, actual: int, result: tuple[int, int]
) -> None:
    assert residual(expected, actual) == result


@given(
    length=st.integers(0, 3000),
    wanted=st.integers(0, 3000),
    first=st.integers(1, 1500),
    burst=st.integers(1, 1500),
    limit=st.integers(1, 900),
    outstanding=st.integers(1, 4),
    immediate_data=st.booleans(),
    initial_r2t=st.booleans(),
    late=st.booleans(),
    placing=st.booleans(),
)
def test_write_is_collected_whole_whatever_was_negotiated(
    length: int,
    wanted: int,
    first: int,
    burst: int,
    limit: int,
    outstanding: int,
    immediate_data: bool,
    initial_r2t: bool,
    late: bool,
    placing: bool,
) -> None:
    """Both ends of a write: `first_burst` and `pieces` of the initiator, the target's
    `DataOutTransfer`. `late`: the unit asks only after the unsolicited data."""
    wanted = min(wanted, length)
    parameters = Parameters(
        first_burst_length=min(first, burst),
        max_burst_length=burst,
        send_limit=limit,
        max_outstanding_r2t=outstanding,
        immediate_data=immediate_data,
        initial_r2t=initial_r2t,
    )
    data = pattern(length)
    immediate, unsolicited = first_burst(length, parameters)
    transfer = DataOutTransfer(length, data[:immediate], unsolicited > 0, parameters)
    tags = itertools.count(1)
    done = False
    if not late:
        done = transfer.want(wanted)

    def send(tag: int, start: int, size: int) -> DataOutEvent:
        event = DataOutEvent.MORE
        for sn, (offset, step, final) in enumerate(pieces(size, limit, start)):
            piece: bytes | memoryview = data[offset : offset + step]
            place = transfer.place(tag, offset, step) if placing else None
            if place is not None:
                place[:] = piece
                piece = place
            event = transfer.receive(tag, sn, offset, piece, final)
        return event

    if unsolicited:
        event = send(RESERVED_TAG, immediate, unsolicited)
        done = done or event is DataOutEvent.COMPLETE
    if late:
        done = transfer.want(wanted)
    asked = list(transfer.solicit(lambda: next(tags)))
    assert done is not bool(asked)
    while asked:
        assert len(asked) <= outstanding
        solicitation = asked.pop(0)
        size = solicitation.end - solicitation.offset
        assert 0 < size <= burst
        event = send(solicitation.tag, solicitation.offset, size)
        asked += transfer.solicit(lambda: next(tags))
        assert (event is DataOutEvent.COMPLETE) is not bool(asked)
    assert transfer.is_complete
    assert not transfer.is_receiving
    assert bytes(transfer.data) == data[:wanted]


def solicited(length: int = 1000, burst: int = 500) -> tuple[DataOutTransfer, list[int]]:
    parameters = Parameters(max_burst_length=burst, max_outstanding_r2t=4)
    transfer = DataOutTransfer(length, b"", False, parameters)
    transfer.want(length)
    tags = itertools.count(1)
    return transfer, [made.tag for made in transfer.solicit(lambda: next(tags))]


@pytest.mark.parametrize(
    ("tag", "data_sn", "offset", "size"),
    [
        pytest.param(1, 1, 0, 500, id="data-sn"),
        pytest.param(1, 0, 4, 496, id="gap"),
        pytest.param(1, 0, 0, 501, id="too-much"),
        pytest.param(1, 0, 100, 100, id="gap-and-short"),
        pytest.param(2, 0, 0, 500, id="offset-of-the-other-r2t"),
    ],
)
def test_broken_solicited_sequence_is_followed_to_its_end(
    tag: int, data_sn: int, offset: int, size: int
) -> None:
    transfer, tags = solicited()
    assert tags == [1, 2]
    assert transfer.receive(tag, data_sn, offset, b"x" * size, True) is DataOutEvent.SEQUENCE_END
    assert transfer.is_broken
    assert transfer.is_receiving
    other = 3 - tag
    start = 500 * (other - 1)
    assert transfer.receive(other, 0, start, b"y" * 500, True) is DataOutEvent.COMPLETE
    assert transfer.is_broken
    assert not transfer.is_receiving
    assert b"x" not in bytes(transfer.data)


def test_data_for_an_r2t_that_was_never_sent_has_no_sequence() -> None:
    transfer, _ = solicited()
    assert transfer.receive(9, 0, 0, bytes(4), True) is DataOutEvent.NO_SEQUENCE
    assert not transfer.is_broken


def test_solicited_sequence_that_ends_early_is_not_enough() -> None:
    transfer, _ = solicited()
    assert transfer.receive(1, 0, 0, bytes(499), True) is DataOutEvent.NOT_ENOUGH


def test_unsolicited_data_that_was_not_announced_is_unexpected() -> None:
    transfer, _ = solicited()
    event = transfer.receive(RESERVED_TAG, 0, 0, bytes(4), True)
    assert event is DataOutEvent.UNEXPECTED_UNSOLICITED


def test_unsolicited_data_beyond_the_first_burst_is_unexpected() -> None:
    transfer = DataOutTransfer(1000, b"", True, Parameters(first_burst_length=600))
    assert transfer.receive(RESERVED_TAG, 0, 0, bytes(600), False) is DataOutEvent.MORE
    event = transfer.receive(RESERVED_TAG, 1, 600, bytes(4), True)
    assert event is DataOutEvent.UNEXPECTED_UNSOLICITED


def test_data_is_asked_for_once_and_within_what_there_is() -> None:
    transfer = DataOutTransfer(10, b"", False, Parameters())
    with pytest.raises(LocalProtocolError):
        transfer.want(11)
    transfer.want(10)
    with pytest.raises(LocalProtocolError):
        transfer.want(10)


@given(
    st.lists(st.binary(max_size=700), max_size=5),
    st.integers(0, 3000),
    st.integers(1, 900),
    st.integers(1, 1500),
)
def test_data_in_is_cut_without_a_gap(
    buffers: list[bytes], length: int, limit: int, burst: int
) -> None:
    length = min(length, sum(map(len, buffers)))
    transfer = DataInTransfer(length)
    in_sequence = 0
    ended = True
    for data_sn, (offset, piece, ends) in enumerate(data_in_pieces(buffers, length, limit, burst)):
        assert 0 < len(piece) <= limit
        in_sequence += len(piece)
        assert in_sequence <= burst
        if ends:
            in_sequence = 0
        ended = ends
        place = transfer.place(offset, len(piece)) if data_sn % 2 else None
        if place is not None:
            place[:] = piece
            transfer.receive(data_sn, offset, place)
        else:
            transfer.receive(data_sn, offset, bytes(piece))
    assert ended
    assert bytes(transfer.data) == b"".join(buffers)[:length]


@pytest.mark.parametrize(
    ("data_sn", "offset", "size"), [(1, 0, 4), (0, 4, 4), (0, 0, 101)], ids=["sn", "gap", "long"]
)
def test_broken_data_in_is_an_error(data_sn: int, offset: int, size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        DataInTransfer(100).receive(data_sn, offset, bytes(size))
