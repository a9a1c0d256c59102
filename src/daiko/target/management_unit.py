"""The management unit: a logical unit without blocks, by which another site's first controller
talks to this one (peripheral device type 0Ch, storage array controller device, SCC-2).

It is an ordinary logical unit in all that concerns tasks, unit attentions and sessions. Its
commands are the few that any initiator needs to see what it is, and SITE IN and SITE OUT; it has no
blocks, no mode pages, no reservations, no states of target port groups. Each site has a unit of its
own, so that nothing which one peer does (a reset, an abort) concerns another.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.error import OutOfRange
from daiko.scsi.site import MANAGEMENT_PRODUCT
from daiko.target.logical_unit import Identity, LogicalUnit, SiteCommands

_REFUSAL: Final = "a management unit has no blocks"


class NoBlocks(BlockDevice):
    """The device of a unit that has none."""

    def __init__(self) -> None:
        self.block_size = 512
        self.blocks = 0
        self.capabilities = Capabilities(
            unmap=Level.NONE,
            write_same=Level.NONE,
            compare_and_write=Level.NONE,
            fua=Level.NONE,
            read_only=True,
        )

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        done(OutOfRange(_REFUSAL), b"")

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        done(OutOfRange(_REFUSAL))

    def flush(self, done: Done) -> None:
        done(None)


def management_unit(
    site: str, commands: SiteCommands, system_identity: str, company_id: int
) -> LogicalUnit:
    """The management unit for a site. Its identity (NAA 6 with this company id) follows from the
    UUID of the system and the site's name, so it is the same after a restart."""
    digest = blake2b(f"{system_identity}/{site}".encode(), digest_size=13).digest()
    unique = int.from_bytes(digest, "big") & ((1 << 100) - 1)
    naa = ((6 << 124) | (company_id << 100) | unique).to_bytes(16, "big")
    return LogicalUnit(
        Identity(f"management unit for site {site}", naa, product=MANAGEMENT_PRODUCT),
        NoBlocks(),
        site=commands,
    )
