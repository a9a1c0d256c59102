"""Function tables between sites: our cells as the protocol writes them, and the peer's as we read
them.

A peer's controllers are none of ours, even where they are called the same. So they stand under
names that none of ours can have, `SITE:BACKEND`, and so do their devices, `SITE:BACKEND/LUN`.
"""

from __future__ import annotations

from typing import Final

from daiko.command_control.function_table import CopyLimits, FunctionCell, Known, ReachCell
from daiko.command_control.plan import Function, Mode
from daiko.scsi.site_values import (
    Answer,
    FunctionCode,
    KnownCode,
    Limits,
    PeerCell,
    PeerReach,
    shortened,
)

FUNCTION_CODES = {
    Function.DIRECT_BACKUP: FunctionCode.DIRECT_BACKUP,
    Function.VOLUME_COPY: FunctionCode.VOLUME_COPY,
}
FUNCTIONS: Final[dict[int, Function]] = {
    code: function for function, code in FUNCTION_CODES.items()
}
_KNOWN_CODES = {
    Known.DECLARED: KnownCode.BY_HAND,
    Known.PROBED: KnownCode.PROBED,
    Known.LEARNED: KnownCode.LEARNED,
}
_KNOWN = {code: known for known, code in _KNOWN_CODES.items()}
MODE_CODES = {Mode.DELEGATE: 1, Mode.DIRECT: 2, Mode.LOCAL: 3}
MODES = {code: mode for mode, code in MODE_CODES.items()}


def foreign(site: str, name: str) -> str:
    """The name here of a controller or device of another site."""
    return f"{site}:{name}"


def peer_cell(controller: str, function: Function, cell: FunctionCell | None) -> PeerCell:
    """A cell of our table as a peer is told it; None: nothing is known."""
    code = FUNCTION_CODES[function]
    if cell is None:
        return PeerCell(controller, code, Answer.NOT_KNOWN, KnownCode.NOT_KNOWN, 0, "")
    return PeerCell(
        controller=controller,
        function=code,
        answer=Answer.CAN if cell.can else Answer.CANNOT,
        known=_KNOWN_CODES[cell.known],
        at=int(cell.at),
        reason=shortened(cell.reason),
        on=shortened(cell.on),
        limits=None if cell.limits is None else _limits_of(cell.limits),
    )


def peer_reach(controller: str, device: str, cell: ReachCell) -> PeerReach:
    """A cell of our reachability column as a peer is told it."""
    return PeerReach(
        controller=controller,
        device=device,
        answer=Answer.CAN if cell.can else Answer.CANNOT,
        known=_KNOWN_CODES[cell.known],
        at=int(cell.at),
        reason=shortened(cell.reason),
    )


def function_cell(cell: PeerCell) -> FunctionCell | None:
    """A peer's cell as ours are; None where it says that nothing is known."""
    if cell.answer is Answer.NOT_KNOWN or cell.known is KnownCode.NOT_KNOWN:
        return None
    limits = None if cell.limits is None else _limits(cell.limits)
    return FunctionCell(
        cell.answer is Answer.CAN, _KNOWN[cell.known], float(cell.at), cell.reason, limits, cell.on
    )


def reach_cell(cell: PeerReach) -> ReachCell | None:
    """A peer's cell of reach as ours are; None where it says that nothing is known."""
    if cell.answer is Answer.NOT_KNOWN or cell.known is KnownCode.NOT_KNOWN:
        return None
    return ReachCell(cell.answer is Answer.CAN, _KNOWN[cell.known], float(cell.at), cell.reason)


def _limits_of(limits: CopyLimits) -> Limits:
    return Limits(
        max_cscds=_within(limits.max_cscds, 4),
        max_segments=_within(limits.max_segments, 4),
        max_list_bytes=_within(limits.max_list_bytes, 4),
        max_segment_bytes=_within(limits.max_segment_bytes, 8),
        max_segment_blocks=_within(limits.max_segment_blocks, 4),
        concurrent=_within(limits.concurrent, 4),
        no_list_id=limits.no_list_id,
        only_no_list_id=limits.only_no_list_id,
        aliases=limits.aliases,
        segment_types=_types(limits.segment_types),
        cscd_types=_types(limits.cscd_types),
    )


def _within(value: int, size: int) -> int:
    """A limit set by hand may be any number; a smaller one keeps it."""
    return max(0, min(value, (1 << 8 * size) - 1))


def _types(codes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(code for code in codes if 0 <= code <= 0xFF)[:0xFF]


def _limits(limits: Limits) -> CopyLimits:
    return CopyLimits(
        max_cscds=limits.max_cscds,
        max_segments=limits.max_segments,
        max_list_bytes=limits.max_list_bytes,
        max_segment_bytes=limits.max_segment_bytes,
        max_segment_blocks=limits.max_segment_blocks,
        concurrent=limits.concurrent,
        no_list_id=limits.no_list_id,
        only_no_list_id=limits.only_no_list_id,
        segment_types=limits.segment_types,
        cscd_types=limits.cscd_types,
        aliases=limits.aliases,
    )
