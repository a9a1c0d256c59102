"""The way back: how much of a second command is done when it ends without GOOD.

A second controller counts the segments of the list that it was sent; `SecondCommand.covers` says
what each of them is a part of. What the host is told of a failure follows from the steps that are
then missing, not from the second controller's words, which speak of a list the host never saw.
"""

from __future__ import annotations

from daiko.command_control.generation import Cover, SecondCommand
from daiko.scsi.sense import Sense, SenseKey


def confirmed(command: SecondCommand, sense: Sense) -> tuple[Cover, ...]:
    """What a command that ended with this sense data has surely copied: the segments before the
    one that failed (SPC-4, 6.4.6: they are processed in order). Of that one nothing is counted: a
    residual says how much is missing, not where. A copy manager that gives no segment number
    (LIO) reads as 0, and confirms nothing."""
    if sense.key != SenseKey.COPY_ABORTED or sense.segment is None:
        return ()
    return command.covers[: sense.segment] if sense.segment < len(command.covers) else ()


def failed_cover(command: SecondCommand, sense: Sense) -> Cover:
    """The part of the steps at which the command failed, as far as the sense data tells."""
    return command.covers[len(confirmed(command, sense))]
