"""How an administrator's request fails: four ways, each with what to do next.

Everything in `control` raises one of these and nothing else for a request that cannot be done; the
API turns each into one problem document (RFC 9457) and the command line each into one exit code.
A message says what is wrong, in one sentence that names the thing; `next_step` says what the
administrator can do about it.
"""

from __future__ import annotations

from typing import ClassVar


class ControlError(Exception):
    """A request that was not done; nothing was changed."""

    slug: ClassVar[str] = "failed"
    """Name of the condition: last part of the problem's type."""
    title: ClassVar[str] = "The request could not be done"

    def __init__(self, message: str, next_step: str = "", *, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.field = field
        """The field of the request that is at fault, as a dotted path; "" = none in particular."""


class NotFound(ControlError):
    """Nothing of that name or number exists."""

    slug = "not-found"
    title = "No such thing"


class Conflict(ControlError):
    """The request is right in itself, but what exists forbids it: in use, taken, already there."""

    slug = "conflict"
    title = "What exists forbids this"


class Invalid(ControlError):
    """The request itself is wrong: malformed, out of range, or it contradicts itself."""

    slug = "invalid"
    title = "The request is not right"


class Unavailable(ControlError):
    """Something that the request needs does not answer or has no room now; try again later."""

    slug = "unavailable"
    title = "Something needed does not answer"
