"""Volumes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, computed_field

from daiko.command_control.plan import Mode
from daiko.state.index import Sight
from daiko.state.record import ExtentRecord, VolumeRecord


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
        return self.extents.table.blocks

    @computed_field(description="Capacity in bytes")  # type: ignore[prop-decorator]
    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    @classmethod
    def of(cls, volume: VolumeRecord, sights: Iterable[Sight]) -> Self:
        mapped_to = [MappedTo(host=sight.host, lun=sight.lun) for sight in sights]
        return cls(**dict(volume), mapped_to=mapped_to)


class VolumeSummary(BaseModel):
    """A volume as a list shows it: without its extents, of which there may be very many."""

    name: str
    block_size: int = Field(description="Bytes")
    blocks: int = Field(description="Capacity in blocks")
    size: int = Field(description="Capacity in bytes")
    extents: int = Field(description="How many; `GET /mappings/{volume}` shows them")
    backends: list[str] = Field(description="Where it lies")
    naa: str
    image: bool
    mode: Mode | None
    created: float
    mapped_to: list[MappedTo]

    @staticmethod
    def row(volume: VolumeRecord, sights: Iterable[Sight]) -> dict[str, Any]:
        """One of a list, as JSON has it: without the models, which would take most of the time."""
        blocks = volume.blocks
        return {
            "name": volume.name,
            "block_size": volume.block_size,
            "blocks": blocks,
            "size": blocks * volume.block_size,
            "extents": len(volume.extents),
            "backends": volume.extents.backends,
            "naa": volume.naa,
            "image": volume.image,
            "mode": volume.mode,
            "created": volume.created,
            "mapped_to": [{"host": host, "lun": lun} for host, lun in sights],
        }


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


class GrowVolume(BaseModel, extra="forbid"):
    """How large a volume is to be. With neither size: all that is free behind its last extent."""

    size: int | None = Field(default=None, gt=0, description="Bytes that it is to have")
    by: int | None = Field(default=None, gt=0, description="Bytes that are to be added")
    candidates: list[str] = Field(
        default=[],
        description="BACKEND or BACKEND/LUN to take room from, in this order. Default: behind "
        "the last extent, then anywhere on the devices that the volume lies on",
    )


class ChangeVolume(BaseModel, extra="forbid"):
    """What can be changed of a volume."""

    mode: Mode | None = Field(description="Overrides the system's; null lets that hold again")


class Released(BaseModel):
    """A volume given back: the data lies on the device as the host last saw it."""

    volume: str
    next_step: str = Field(description="Where hosts find the data now")
