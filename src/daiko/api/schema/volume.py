"""Volumes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, computed_field

from daiko.command_control.plan import Mode
from daiko.state.record import ExtentRecord, HostRecord, VolumeRecord


class MappedTo(BaseModel):
    """A host that sees the volume."""

    host: str
    lun: int


class VolumeView(VolumeRecord):
    """A volume, its extents, and who sees it."""

    mapped_to: list[MappedTo]

    @computed_field(description="Capacity in blocks")  # type: ignore[prop-decorator]
    @property
    def blocks(self) -> int:
        return sum(extent.blocks for extent in self.extents)

    @computed_field(description="Capacity in bytes")  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    @classmethod
    def of(cls, volume: VolumeRecord, hosts: tuple[HostRecord, ...]) -> Self:
        return cls(
            **dict(volume),
            mapped_to=[
                MappedTo(host=host.name, lun=lun)
                for host in hosts
                for lun, name in host.luns.items()
                if name == volume.name
            ],
        )


class AddByHand(BaseModel, extra="forbid"):
    """A volume over extents named one by one."""

    how: Literal["by-hand"]
    name: str = Field(examples=["alpha"])
    extents: list[ExtentRecord] = Field(
        examples=[[{"device": "sd1/0", "lba": 0, "blocks": 1048576}]], min_length=1
    )
    mode: Mode | None = None


class AddAutomatic(BaseModel, extra="forbid"):
    """A volume of some size, laid out over free room."""

    how: Literal["automatic"]
    name: str = Field(examples=["alpha"])
    size: int = Field(description="Bytes", examples=[10737418240], gt=0)
    candidates: list[str] = Field(
        description="BACKEND (all of its LUs) or BACKEND/LUN to take room from, in this order. "
        "What no volume uses there counts as free",
        examples=[["sd1", "sd2/0"]],
        min_length=1,
    )
    mode: Mode | None = None


class AddImage(BaseModel, extra="forbid"):
    """An existing LU taken in as it is; not a byte is copied or changed."""

    how: Literal["image"]
    name: str = Field(examples=["old-array"])
    device: str = Field(description="BACKEND/LUN", examples=["sd1/3"])
    mode: Mode | None = None


AddVolume = Annotated[AddByHand | AddAutomatic | AddImage, Field(discriminator="how")]


class ChangeVolume(BaseModel, extra="forbid"):
    """What can be changed of a volume."""

    mode: Mode | None = Field(description="Overrides the system's; null lets that hold again")


class Released(BaseModel):
    """A volume given back: the data lies on the device as the host last saw it."""

    volume: str
    next_step: str = Field(description="Where hosts find the data now")
