"""Framing: any split of the stream gives the same PDUs; wrong digests and lengths are found."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daiko.iscsi import digest
from daiko.iscsi.bhs import Buffer
from daiko.iscsi.error import FormatError, HeaderDigestError
from daiko.iscsi.framing import SHORT_READ, SMALL, Framer, ReceiveBuffer, dispatch_table, encode
from daiko.iscsi.pdu import NopOut, ScsiCommand

LIMIT = 64 * 1024


@dataclass
class Receiver:
    """Notes what the framer hands over."""

    placing: bool = True
    seen: list[tuple[bytes, bytes, bytes]] = field(default_factory=list)
    kinds: list[type] = field(default_factory=list)
    damaged: list[bytes] = field(default_factory=list)

    def take(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self.seen.append((bytes(header[at : at + 48]), ahs, bytes(data)))
        self.kinds.append(type(data))

    def take_damaged(self, header: Buffer, at: int, ahs: bytes, data: Buffer) -> None:
        self.damaged.append(bytes(header[at : at + 48]))

    def place(self, header: Buffer, at: int, length: int) -> memoryview | None:
        return memoryview(bytearray(length)) if self.placing else None

    def framer(
        self,
        *,
        header_digest: bool = False,
        data_digest: bool = False,
        buffer: ReceiveBuffer | None = None,
    ) -> Framer:
        made = Framer(
            dispatch_table({}, self.take),
            maximum_data_length=LIMIT,
            on_data_digest_error=self.take_damaged,
            place=self.place,
            buffer=buffer or ReceiveBuffer(2 * SMALL + 2048),
        )
        made.header_digest, made.data_digest = header_digest, data_digest
        return made


def ping(data: bytes) -> bytes:
    return NopOut(data=data).pack()


def command(ahs: bytes, data: bytes) -> bytes:
    return ScsiCommand(False, True, False, True, 1, 0, 1, 4, 1, 1, bytes(16), data, ahs).pack()


SIZES = st.one_of(
    st.integers(0, 10),
    st.sampled_from([SMALL - 1, SMALL, SMALL + 1, SMALL + 4, 3 * SMALL + 2, LIMIT]),
)
PDUS = st.lists(st.tuples(SIZES, st.integers(0, 3)), min_size=1, max_size=6)


@given(
    pdus=PDUS,
    cuts=st.lists(st.integers(1, 20000), min_size=1, max_size=12),
    header_digest=st.booleans(),
    data_digest=st.booleans(),
    placing=st.booleans(),
)
@settings(max_examples=150)
def test_any_split_of_the_stream_gives_the_same_pdus(
    pdus: list[tuple[int, int]],
    cuts: list[int],
    header_digest: bool,
    data_digest: bool,
    placing: bool,
) -> None:
    expected = []
    stream = b""
    for number, (size, words) in enumerate(pdus):
        data = bytes([number + 1]) * size
        ahs = bytes([0x40 + number]) * (4 * words)
        header = command(ahs, data)
        expected.append((header, ahs, data))
        stream += b"".join(
            encode(header, data, ahs=ahs, header_digest=header_digest, data_digest=data_digest)
        )
    receiver = Receiver(placing)
    framer = receiver.framer(header_digest=header_digest, data_digest=data_digest)
    at = turn = 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        framer.feed(stream[at : at + step])
        at += step
        turn += 1
    assert receiver.seen == expected
    assert receiver.damaged == []
    assert framer.is_between_pdus


def test_stream_byte_by_byte_gives_the_same_pdus() -> None:
    receiver = Receiver()
    framer = receiver.framer(header_digest=True, data_digest=True)
    data = b"x" * (SMALL + 3)
    parts = encode(ping(data), data, header_digest=True, data_digest=True)
    for byte in b"".join(parts) * 2:
        framer.feed(bytes([byte]))
    assert [seen[2] for seen in receiver.seen] == [data, data]


@dataclass
class Recorded:
    """Reads a stream by `get_buffer`, and notes how much each read asked for."""

    framer: Framer
    asked: list[int] = field(default_factory=list)

    def read(self, stream: bytes) -> None:
        while stream:
            room = self.framer.get_buffer()
            self.asked.append(len(room))
            count = min(len(room), len(stream))
            room[:count] = stream[:count]
            stream = stream[count:]
            self.framer.received(count)


def test_after_a_large_data_segment_the_next_is_received_in_its_place() -> None:
    data = bytes(LIMIT)
    receiver = Receiver()
    reader = Recorded(receiver.framer())
    reader.read(b"".join(encode(ping(data), data)) * 3)
    whole = 2 * SMALL + 2048
    first = [whole, LIMIT + 48 - whole]
    assert reader.asked == [*first, *[SHORT_READ, LIMIT + 48 - SHORT_READ] * 2]
    reader.read(ping(b"") + ping(b""))
    assert reader.asked[6:] == [SHORT_READ]
    reader.read(ping(b""))
    assert reader.asked[7:] == [whole], "nothing large came, so the next read takes all it can"
    assert len(receiver.seen) == 6


@given(
    sizes=st.lists(st.sampled_from([0, 5, SMALL, SMALL + 1, LIMIT]), min_size=2, max_size=6),
    cuts=st.lists(st.integers(1, 20000), min_size=1, max_size=12),
)
@settings(max_examples=20)
def test_connections_that_share_a_receive_buffer_do_not_disturb_each_other(
    sizes: list[int], cuts: list[int]
) -> None:
    shared = ReceiveBuffer(2 * SMALL + 2048)
    receivers = [Receiver(), Receiver()]
    framers = [receiver.framer(buffer=shared) for receiver in receivers]
    expected: list[list[bytes]] = [[], []]
    streams = [b"", b""]
    for number, size in enumerate(sizes):
        for which in (0, 1):
            data = bytes([16 * which + number]) * size
            expected[which].append(data)
            streams[which] += b"".join(encode(ping(data), data))
    turn = 0
    while any(streams):
        which = turn & 1
        step = cuts[turn % len(cuts)]
        framers[which].feed(streams[which][:step])
        streams[which] = streams[which][step:]
        turn += 1
    for which in (0, 1):
        assert [data for _, _, data in receivers[which].seen] == expected[which]


@pytest.mark.parametrize(
    ("size", "placing", "kind"),
    [
        pytest.param(0, True, bytes, id="none"),
        pytest.param(SMALL, True, bytes, id="small-is-copied"),
        pytest.param(SMALL + 1, True, memoryview, id="large-is-placed"),
        pytest.param(SMALL + 1, False, bytearray, id="large-without-place-is-given"),
    ],
)
def test_data_segment_comes_in_the_form_its_size_asks_for(
    size: int, placing: bool, kind: type
) -> None:
    receiver = Receiver(placing)
    receiver.framer().feed(b"".join(encode(ping(bytes(size)), bytes(size))))
    assert receiver.kinds == [kind]


@pytest.mark.parametrize("size", [4, 5, SMALL, SMALL + 1, SMALL + 5])
@pytest.mark.parametrize("damage", ["data", "digest"])
def test_wrong_data_digest_goes_to_its_handler_and_the_stream_goes_on(
    size: int, damage: str
) -> None:
    receiver = Receiver()
    framer = receiver.framer(header_digest=True, data_digest=True)
    data = b"d" * size
    good = b"".join(encode(ping(data), data, header_digest=True, data_digest=True))
    bad = bytearray(good)
    bad[52 if damage == "data" else -1] ^= 1
    framer.feed(bytes(bad) + good)
    assert receiver.damaged == [ping(data)]
    assert [seen[2] for seen in receiver.seen] == [data]


@pytest.mark.parametrize("position", [0, 20, 47, 48, 51])
def test_wrong_header_digest_ends_the_stream(position: int) -> None:
    receiver = Receiver()
    framer = receiver.framer(header_digest=True)
    stream = bytearray(b"".join(encode(ping(b""), header_digest=True)))
    stream[position] ^= 0x10
    with pytest.raises(HeaderDigestError):
        framer.feed(bytes(stream))
    assert receiver.seen == []


def test_data_segment_beyond_the_declared_length_ends_the_stream() -> None:
    header = bytearray(ping(b""))
    header[5:8] = (LIMIT + 1).to_bytes(3, "big")
    with pytest.raises(FormatError):
        Receiver().framer().feed(bytes(header))


def test_stopped_framer_drops_the_rest_of_the_batch() -> None:
    receiver = Receiver()
    framer = receiver.framer()
    framer.dispatch = [lambda *pdu: framer.stop()] * 64
    framer.feed(ping(b"") * 3)
    assert receiver.seen == []


def test_digest_of_the_standards_examples() -> None:
    """RFC 7143, appendix B.4."""
    assert digest.digest(bytes(32)) == bytes.fromhex("aa36918a")
    assert digest.digest(b"\xff" * 32) == bytes.fromhex("43aba862")
    assert digest.digest(bytes(range(32))) == bytes.fromhex("4e79dd46")
    assert digest.digest(bytes(range(30)), bytes([30, 31])) == bytes.fromhex("4e79dd46")
