"""Our initiator and our target at the two ends of one connection, over all that is negotiated.

Each case is a login with other parameters, in which writes and reads of many sizes come back as
they were: digests of either kind or none, data immediate, unsolicited, solicited, or all of them.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daiko.device.block import Buffer
from daiko.device.error import DeviceError
from daiko.initiator.command import AskedCommand
from daiko.initiator.multipath import Multipath
from daiko.initiator.portal import Portal
from daiko.initiator.settings import InitiatorSettings
from daiko.iscsi.negotiation import OFFER, Offer
from target.memory_access import BLOCK, IQN, MemoryAccess, serving
from target.raw_initiator import read_10, write_10

INITIATOR = "iqn.2026-11.example:pair"
SIZES = (1, 2, 15, 16, 17, 127, 128, 129, 600, 2047)
"""Blocks: below, at and above each of the limits that the cases set."""


class Watcher:
    """Lets commands go at once."""

    paths: Multipath

    def __init__(self) -> None:
        self.losses: list[str] = []

    def nexus_started(self) -> None:
        self.paths.release()

    def nexus_lost(self, reason: str) -> None:
        self.losses.append(reason)

    def unit_attention(self, lun: int, asc: int, ascq: int) -> None:
        """The memory unit has none."""


def start(paths: Multipath, cdb: bytes, data: bytes, length: int) -> asyncio.Future[bytes]:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def done(error: DeviceError | None, status: int, data: Buffer, sense: bytes) -> None:
        if error is not None or status:
            future.set_exception(error or AssertionError(f"status {status:02x}h {sense.hex()}"))
        else:
            future.set_result(bytes(data))

    paths.submit(AskedCommand(0, cdb, done, data, length))
    return future


async def exchange(asked: InitiatorSettings, offer: Offer, sizes: tuple[int, ...]) -> Multipath:
    """Write and read blocks of all sizes at once, and compare. Returns the paths, closed."""
    source = random.Random(7)
    access = MemoryAccess(sum(sizes))
    watcher = Watcher()
    async with serving(access, offer=offer) as (_, portal):
        paths = Multipath(IQN, [Portal.parse(portal)], INITIATOR, watcher, settings=asked)
        watcher.paths = paths
        await paths.open()
        try:
            session = paths.session
            assert session is not None
            negotiated = session.negotiated
            assert negotiated.header_digest is asked.header_digest
            assert negotiated.data_digest is asked.data_digest
            assert negotiated.immediate_data is asked.immediate_data
            assert negotiated.initial_r2t is asked.initial_r2t
            places = []
            lba = 0
            for blocks in sizes:
                places.append((lba, blocks, source.randbytes(blocks * BLOCK)))
                lba += blocks
            async with asyncio.timeout(30):
                await asyncio.gather(
                    *(start(paths, write_10(lba, n), data, 0) for lba, n, data in places)
                )
                assert bytes(access.store) == b"".join(data for _, _, data in places)
                read = await asyncio.gather(
                    *(start(paths, read_10(lba, n), b"", n * BLOCK) for lba, n, _ in places)
                )
            assert read == [data for _, _, data in places]
            assert watcher.losses == []
        finally:
            await paths.close()
    return paths


@pytest.mark.parametrize(
    ("header", "data", "immediate", "initial_r2t"),
    [
        pytest.param(*case, id="-".join(name for name, on in zip(
            ("header-digest", "data-digest", "immediate", "r2t-first"), case, strict=True
        ) if on) or "nothing")
        for case in product((False, True), repeat=4)
    ],
)  # fmt: skip
async def test_data_comes_through_whatever_is_negotiated(
    header: bool, data: bool, immediate: bool, initial_r2t: bool
) -> None:
    """Small limits, so that every size is cut in another way: by segments, bursts and R2Ts."""
    asked = InitiatorSettings(
        header_digest=header,
        data_digest=data,
        immediate_data=immediate,
        initial_r2t=initial_r2t,
        max_recv_data_segment_length=16 * 1024,
        first_burst_length=64 * 1024,
        max_burst_length=128 * 1024,
    )
    offer = {**OFFER, "MaxRecvDataSegmentLength": 8192, "MaxOutstandingR2T": 2}
    await exchange(asked, offer, SIZES)


LENGTHS = st.integers(512, 300_000)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.tuples(LENGTHS, LENGTHS, LENGTHS),
    st.tuples(LENGTHS, LENGTHS, LENGTHS, st.integers(1, 8)),
    st.lists(st.integers(1, 700), min_size=1, max_size=12),
)
async def test_data_comes_through_with_lengths_at_odds(
    switches: tuple[bool, bool, bool, bool],
    ours: tuple[int, int, int],
    theirs: tuple[int, int, int, int],
    sizes: list[int],
) -> None:
    """Lengths that no power of two divides, and that fit each other in no way."""
    header, data, immediate, initial_r2t = switches
    asked = replace(
        InitiatorSettings(),
        header_digest=header,
        data_digest=data,
        immediate_data=immediate,
        initial_r2t=initial_r2t,
        max_recv_data_segment_length=ours[0],
        first_burst_length=ours[1],
        max_burst_length=ours[2],
    )
    offer = {
        **OFFER,
        "MaxRecvDataSegmentLength": theirs[0],
        "FirstBurstLength": theirs[1],
        "MaxBurstLength": theirs[2],
        "MaxOutstandingR2T": theirs[3],
    }
    await exchange(asked, offer, tuple(sizes))
