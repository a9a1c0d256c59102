"""The link between the two sites of `two_sites.py`: it carries packed envelopes, and the commands
to the volume that is followed. It goes at any envelope, and envelopes come late."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from daiko.backend.site_session import SiteUnavailable
from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.error import DeviceError, Refused, Unreachable
from daiko.scsi.site_values import Envelope, OfferedVolume

from .pair_world import BLOCK, BLOCKS

if TYPE_CHECKING:
    from .two_sites import Controller, TwoSites

LEADER, FOLLOWER = "tokyo", "osaka"
"""At first; the roles may be exchanged."""
OTHER = {LEADER: FOLLOWER, FOLLOWER: LEADER}
VOLUMES = {LEADER: "alpha", FOLLOWER: "beta"}
"""Of the pair p."""
NAA_OF = {
    name: f"6{number:031}" for number, name in enumerate(("alpha", "beta", "gamma", "delta"), 1)
}

SILENCE_SECONDS = 15.0
"""After which who sent an envelope that does not arrive gives up."""


class Fault(Enum):
    """What becomes of an envelope."""

    LOST = "the link goes before it arrives"
    UNHEARD = "it arrives, and the link goes before the answer does"
    HELD = "it is on its way for long"


class Wire:
    """What is between the sites, whoever runs there."""

    def __init__(self) -> None:
        self.is_up = True
        self.generation = 0
        self.resets = 0
        """That were told of volumes at the other end."""
        self.lost = asyncio.Event()
        """Set when it goes; another then."""
        self.outstanding: set[Callable[[], None]] = set()
        """Commands that have no answer yet; called when it is lost."""
        self.sent: deque[tuple[str, Envelope]] = deque(maxlen=12)
        """The last envelopes, each with the site that sent it: they may come, or come again,
        late."""
        self.fault = Fault.LOST
        self.envelopes_left = -1
        """Before the fault; -1: there is none."""

    def next_fault(self) -> Fault | None:
        """What becomes of the envelope that is sent now."""
        self.envelopes_left = max(-1, self.envelopes_left - 1)
        if self.envelopes_left != 0:
            return None
        self.envelopes_left = -1
        return self.fault

    def lose(self) -> None:
        """Nothing passes, until it is up again."""
        self.lost.set()
        self.lost = asyncio.Event()
        for answer in list(self.outstanding):
            answer()


class Link:
    """What one controller has of the other site (`backend.site_link.SiteLink`)."""

    version = (1, 2)

    def __init__(self, world: TwoSites, owner: Controller) -> None:
        self.world = world
        self.owner = owner

    @property
    def generation(self) -> int:
        return self.world.wire.generation + self.world.wire.resets

    def peer(self) -> Controller:
        """Who is at the other end. Raises SiteUnavailable."""
        peer = self.world.controllers.get(OTHER[self.owner.site])
        if peer is None or peer.is_dead or self.owner.is_dead or not self.world.wire.is_up:
            raise SiteUnavailable("the link is down")
        return peer

    async def probe(self) -> None:
        """There is nothing that it could bring up."""

    async def _at_peer(self, work: Callable[[Controller], Any]) -> Any:
        """What it does there goes on, whatever becomes of the link meanwhile."""
        peer, generation = self.peer(), self.world.wire.generation
        task = self.world.loop.create_task(work(peer), context=peer.context.copy())
        waiting = asyncio.ensure_future(self.world.wire.lost.wait())
        try:
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not task.done() or task.cancelled() or self.world.wire.generation != generation:
            raise SiteUnavailable("the link went down")
        return task.result()

    async def send_pair(self, lun: int, envelope: Envelope) -> None:
        self.peer()
        site, wire = self.owner.site, self.world.wire
        wire.sent.append((site, envelope))
        fault = wire.next_fault()
        if fault is Fault.LOST:
            self.world.drop_link()
            raise SiteUnavailable("the link went down")
        if fault is Fault.HELD:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    await wire.lost.wait()
            except TimeoutError:
                raise SiteUnavailable("there is no answer") from None
            raise SiteUnavailable("the link went down")
        await self._at_peer(lambda peer: peer.site_pairs.receive(site, lun, envelope))
        if fault is Fault.UNHEARD:
            self.world.drop_link()

    async def pair_answers(self, lun: int) -> Sequence[Envelope]:
        found: Sequence[Envelope] = await self._at_peer(
            lambda peer: peer.site_pairs.answer(self.owner.site, lun)
        )
        return found

    async def volumes(self) -> dict[int, OfferedVolume]:
        return {
            lun: OfferedVolume(lun, name, BLOCK, BLOCKS, bytes.fromhex(NAA_OF[name]))
            for lun, name in enumerate(self.peer().volumes, 1)
        }

    async def device(self, lun: int) -> BlockDevice:
        return LinkDevice(self, list(self.peer().volumes)[lun - 1])


class LinkDevice(BlockDevice):
    """A volume of the other site over the link, past its door."""

    def __init__(self, link: Link, name: str) -> None:
        self._name = name
        self.block_size = BLOCK
        self.blocks = BLOCKS
        self.capabilities = Capabilities(
            unmap=Level.NONE, write_same=Level.NONE, compare_and_write=Level.NONE, fua=Level.NATIVE
        )
        self._link = link

    def _send(
        self,
        send: Callable[[BlockDevice, ReadDone], None],
        done: ReadDone,
        *,
        is_flush: bool = False,
    ) -> None:
        world, owner = self._link.world, self._link.owner
        is_answered = False

        def answer(error: DeviceError | None, data: Buffer = b"") -> None:
            nonlocal is_answered
            if not is_answered:
                is_answered = True
                world.wire.outstanding.discard(lose)
                if not owner.is_dead:
                    owner.context.copy().run(done, error, data)

        def lose() -> None:
            answer(Unreachable("the link was lost"))

        try:
            peer = self._link.peer()
        except SiteUnavailable as error:
            answer(Unreachable(str(error)))
            return
        volume = peer.volumes[self._name]
        if volume.has_to_tell_of_a_reset:
            # A unit attention: it is told once, and the command is sent again; but a flush comes
            # too late for what it was to bring to stable storage (`backend.remote_lu`).
            volume.has_to_tell_of_a_reset = False
            world.wire.resets += 1
            if is_flush:
                answer(Refused("power on or reset", status=2, sense=b""))
                return
        world.wire.outstanding.add(lose)
        peer.context.copy().run(send, volume.door(owner.site), answer)

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self._send(lambda door, answer: door.read(lba, blocks, answer), done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        kept = bytes(data)
        self._send(
            lambda door, answer: door.write(lba, kept, lambda error: answer(error, b""), fua),
            lambda error, data: done(error),
        )

    def flush(self, done: Done) -> None:
        self._send(
            lambda door, answer: door.flush(lambda error: answer(error, b"")),
            lambda error, data: done(error),
            is_flush=True,
        )
