"""How a command fails, and with which exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final


class ExitCode(IntEnum):
    """What a script can branch on."""

    OK = 0
    FAILED = 1
    """The job failed or was cancelled, or the controller failed."""
    USAGE = 2
    """The command line, or the request made from it, is not right."""
    NOT_FOUND = 3
    CONFLICT = 4
    """What exists forbids it: in use, taken, already there."""
    UNREACHABLE = 5
    """The controller does not answer, or a back end does not."""
    FORBIDDEN = 6
    """The token is missing or wrong."""
    NOTHING = 7
    """There was nothing to do: it is so already."""
    TIMEOUT = 8
    """What was waited for has not come in time."""
    INTERRUPTED = 130
    """Ctrl-C; a job that was followed goes on."""


_BY_STATUS: Final = {
    401: ExitCode.FORBIDDEN,
    403: ExitCode.FORBIDDEN,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    422: ExitCode.USAGE,
    503: ExitCode.UNREACHABLE,
}


class CliError(Exception):
    """A command that was not done: what is wrong, what to do next, and the exit code."""

    def __init__(
        self,
        message: str,
        next_step: str = "",
        code: ExitCode = ExitCode.FAILED,
        problem: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.code = code
        self.problem = problem
        """The problem document of the API, where it comes from there."""

    @classmethod
    def of(cls, problem: dict[str, Any]) -> CliError:
        """From a problem document."""
        code = _BY_STATUS.get(problem["status"], ExitCode.FAILED)
        next_step = problem.get("next_step", "")
        if problem["status"] == 401:
            next_step = "give the controller's token with --token or DAIKO_TOKEN"
        return cls(problem["detail"], next_step, code, problem)

    def document(self) -> dict[str, Any]:
        """What `--json` prints on standard error."""
        return self.problem or {
            "type": f"urn:daiko:problem:{self.code.name.lower().replace('_', '-')}",
            "title": self.message,
            "detail": self.message,
            "next_step": self.next_step,
        }
