"""Reservations that hosts have of a volume."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.control.reservations import VolumeReservations


class RegistrationView(BaseModel):
    """A host's port that is registered for persistent reservations."""

    host: str = Field(description="Name of the host; empty where no host has this initiator")
    initiator: str = Field(examples=["iqn.1993-08.org.debian:01:e5a4"])
    isid: str = Field(description="6 bytes in hex", examples=["00023d000001"])
    target_port: int = Field(description="Relative target port identifier")
    key: str = Field(description="Reservation key", examples=["0x1a2b"])
    holds: bool = Field(description="It holds the reservation")
    in_session: bool


class ReservationsView(BaseModel):
    """Who is registered with a volume, and who holds it."""

    volume: str
    type: str | None = Field(
        description="Of the persistent reservation; null: there is none",
        examples=["write-exclusive-registrants-only"],
    )
    kept: bool = Field(description="All of it outlives a restart of this controller (APTPL)")
    generation: int = Field(description="PRgeneration")
    reserved_by: str | None = Field(
        description="Initiator that has the volume by RESERVE(6) or RESERVE(10)"
    )
    registrations: list[RegistrationView]

    @classmethod
    def of(cls, found: VolumeReservations) -> Self:
        return cls.model_validate(found, from_attributes=True)
