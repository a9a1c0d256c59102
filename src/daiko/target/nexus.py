"""The I_T nexus: one initiator port and one target port that are in session (SAM-5, 4.8)."""

from __future__ import annotations


class Nexus:
    """One initiator in one session; unit attentions, list identifiers and aliases hang on it.

    Two nexuses are the same I_T nexus for SCSI when `identity` is equal (RFC 7143, 4.2.7.1:
    initiator name + ISID, target name + portal group tag): a session reinstated by the same
    initiator port continues the nexus.
    """

    __slots__ = (
        "initiator_name",
        "isid",
        "local_address",
        "peer_address",
        "portal_group_tag",
        "target_name",
    )

    def __init__(
        self,
        initiator_name: str,
        isid: bytes,
        target_name: str,
        portal_group_tag: int = 1,
        *,
        local_address: tuple[str, int] = ("", 0),
        peer_address: tuple[str, int] = ("", 0),
    ) -> None:
        self.initiator_name = initiator_name
        self.isid = isid
        """6 bytes."""
        self.target_name = target_name
        self.portal_group_tag = portal_group_tag
        self.local_address = local_address
        self.peer_address = peer_address

    @property
    def identity(self) -> tuple[str, bytes, str, int]:
        return (self.initiator_name, self.isid, self.target_name, self.portal_group_tag)
