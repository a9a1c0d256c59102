"""READ DEFECT DATA (SBC-4, 5.18 and 5.19): the lists of a medium that shows no defects.

What lies under a volume replaces its own bad blocks and shows none of it, so both lists are there
and both are empty, in whichever format they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daiko.scsi import sbc, sense
from daiko.scsi.block_data import DefectFormat, pack_no_defects
from daiko.scsi.opcode import Opcode, Status
from daiko.target.commands.handler import serves

if TYPE_CHECKING:
    from daiko.target.logical_unit import LogicalUnit
    from daiko.target.nexus import ItlNexus
    from daiko.target.task import Task


@serves("READ_DEFECT_DATA_10", "READ_DEFECT_DATA_12")
def read_defect_data(unit: LogicalUnit, itl: ItlNexus, task: Task) -> None:
    """Empty lists. Asked for a format that there is none of (vendor specific, reserved) the answer
    is in another, and says so by RECOVERED ERROR, DEFECT LIST NOT FOUND."""
    is_long = task.cdb[0] == Opcode.READ_DEFECT_DATA_12
    cdb = (sbc.ReadDefectData12 if is_long else sbc.ReadDefectData10).unpack(task.cdb)
    is_known = cdb.format < DefectFormat.VENDOR_SPECIFIC
    data = pack_no_defects(
        primary=bool(cdb.req_plist),
        grown=bool(cdb.req_glist),
        format=cdb.format if is_known else DefectFormat.LONG_BLOCK,
        long=is_long,
    )[: cdb.allocation_length]
    if is_known:
        itl.finish(task, Status.GOOD, (data,))
    else:
        reported = unit.sense_bytes(sense.defect_list_not_found())
        itl.finish(task, Status.CHECK_CONDITION, (data,), reported)
