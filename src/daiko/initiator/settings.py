"""What an initiator port asks for and how patient it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InitiatorSettings:
    """Times are in seconds, lengths in bytes."""

    login_timeout: float = 10.0
    """For a TCP connection and the whole login over it."""
    command_timeout: float = 30.0
    """For a command that does not say otherwise; then ABORT TASK."""
    abort_timeout: float = 15.0
    """For the answer to ABORT TASK; then LOGICAL UNIT RESET. A target answers when the task has
    ended there, which may take a slow disk long; a reset ends other hosts' tasks, too."""
    reset_timeout: float = 30.0
    """For the answer to LOGICAL UNIT RESET; then the connection is dropped, and the login that
    follows ends what this nexus left at the target (RFC 7143, 6.3.5)."""
    logout_timeout: float = 10.0
    """For the answer to a logout; then the connection is dropped."""
    ping_interval: float = 5.0
    """Silence after which the target is pinged (NOP-Out)."""
    ping_timeout: float = 10.0
    """Silence after a ping at which the connection is dropped."""
    tick: float = 1.0
    """How often time limits are looked at."""
    grace: float = 30.0
    """How long after the loss of the connection commands wait for the next one."""
    reconnect_first: float = 0.1
    reconnect_longest: float = 5.0
    """Pause between two rounds over the portals: doubles from the first to the longest."""
    busy_first: float = 0.02
    busy_longest: float = 1.0
    """Pause before a command that met BUSY or TASK SET FULL is sent again: doubles as well."""
    attempts: int = 8
    """How often one command is sent before its last answer counts."""
    busy_patience: float = 30.0
    """How long a command is sent again for BUSY or TASK SET FULL."""
    queue_depth: int = 128
    """Commands in flight, where the target's window allows as many."""
    header_digest: bool = False
    """Whether CRC32C is asked for rather than None."""
    data_digest: bool = False
    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1 << 20
    first_burst_length: int = 262144
    initial_r2t: bool = False
    immediate_data: bool = True
