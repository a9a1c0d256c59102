"""The limits of pairs, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PairSettings:
    """One value for all pairs of a controller."""

    catch_up_bytes: int = 64 * MIB
    """So much may be stale when a pair goes over from rounds (jobs, which the controllers that own
    the data may carry out) to copying region by region with every new write mirrored."""
    rounds: int = 16
    """At most. Where hosts write faster than rounds copy, each round leaves as much as the last."""
    shrinks_to: float = 0.5
    """A round that leaves more than this part of what the round before left is the last."""
    copy_bytes: int = MIB // 4
    """Of one copy in catching up, at least a region; a host's write there waits for so long."""
    copies_in_flight: int = 8
    settle_seconds: float = 2.0
    """How long a region stays marked after a mirrored write: what a crash costs is that much
    copied again, what it costs to prove it is a flush of both sides."""
    retry_seconds: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """Waits before the further tries of a copy that failed; then the pair is split by error."""
    journal_batch: int = 256
    """Entries of a journal that are sent to the secondaries together, at most."""
    drain_seconds: float = 20.0
    """How long a verb waits for what is in the journal to come to the secondary."""
    swap_seconds: float = 5.0
    """How long hosts wait, in a swap, for the last of it."""
    store_seconds: float = 1.0
    """Between two tries to put a state into a store that failed."""

    def pause_after(self, tries: int) -> float:
        """Seconds before the next try, where it is tried for as long as it takes: after so many
        that failed before this one."""
        return self.retry_seconds[min(tries, len(self.retry_seconds) - 1)]
