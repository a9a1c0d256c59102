"""SITE IN and SITE OUT: layouts of the CDBs of what two first controllers say to one another.

The commands are ours, not the standards' (docs/protocol.md); parameter data: `site_parameters.py`.
Any operation code from C0h on may mean anything at a unit that does not know them. So they are sent
only to a unit whose INQUIRY data say that it is a management unit (device type 0Ch), never on
trial. D4h and D5h stand side by side as MAINTENANCE IN and OUT (A3h, A4h) do. The fields lie where
the 16-byte commands of SPC-4 have them: ALLOCATION and PARAMETER LIST LENGTH at byte 10, CONTROL
last.
"""

from __future__ import annotations

from typing import Final

from daiko.scsi.layout import Field, Layout, number
from daiko.scsi.opcode import Opcode, SiteIn, SiteOut
from daiko.scsi.spc import control, opcode, service_action

MANAGEMENT_PRODUCT: Final = "MANAGEMENT UNIT"
"""PRODUCT IDENTIFICATION of a management unit."""

MANAGEMENT_LUN: Final = 0
"""Where a peer finds it."""

_LUN = number("lun", 2, 2)
"""Of an offered volume, as the peer sees it."""
_DEVICE = number("device", 4, 2)
"""Number of a device in the answer to VOLUME MAPPING for that volume."""
_STARTING_INDEX = number("starting_index", 6, 4)
"""Of the descriptors of the whole answer, the first that is wanted."""
_FUNCTION = number("function", 14, 1)


def _in(name: str, action: SiteIn, *fields: Field) -> Layout:
    length = number("allocation_length", 10, 4)
    start = opcode(Opcode.SITE_IN), service_action(action)
    return Layout(name, 16, *start, *fields, length, control(15))


Greet = _in("Greet", SiteIn.GREET)
Volumes = _in("Volumes", SiteIn.VOLUMES, _STARTING_INDEX)
VolumeMapping = _in("VolumeMapping", SiteIn.VOLUME_MAPPING, _LUN, _STARTING_INDEX)
AskFunction = _in("AskFunction", SiteIn.ASK_FUNCTION, _LUN, _DEVICE, _FUNCTION)
FunctionTable = _in("FunctionTable", SiteIn.FUNCTION_TABLE, _STARTING_INDEX)
PairIn = _in("PairIn", SiteIn.PAIR_IN, _LUN, _STARTING_INDEX)

PairOut = Layout(
    "PairOut",
    16,
    opcode(Opcode.SITE_OUT),
    service_action(SiteOut.PAIR_OUT),
    _LUN,
    number("parameter_list_length", 10, 4),
    control(15),
)

LUN_BYTE: Final = _LUN.byte
DEVICE_BYTE: Final = _DEVICE.byte
LENGTH_BYTE: Final = 10
FUNCTION_BYTE: Final = _FUNCTION.byte
"""Where the fields lie, for field pointers."""
