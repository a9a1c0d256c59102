"""What a second controller's answer to GET LBA STATUS says of the blocks that were asked about."""

from __future__ import annotations

from daiko.device.block import Buffer, Run
from daiko.scsi.block_data import ProvisioningStatus, parse_lba_status
from daiko.scsi.layout import MalformedData


def runs(data: Buffer, lba: int, blocks: int) -> list[Run]:
    """The part of a GET LBA STATUS answer that speaks of the blocks asked about. What it leaves
    out, or does not say in order, is mapped."""
    found: list[Run] = []
    position, end = lba, lba + blocks
    try:
        descriptors = parse_lba_status(data)
    except MalformedData:
        descriptors = ()
    for each in descriptors:
        if each.lba > position or position >= end:
            break
        stop = min(each.lba + each.blocks, end)
        if stop > position:
            found.append((stop - position, each.status != ProvisioningStatus.DEALLOCATED))
            position = stop
    return found or [(blocks, True)]
