"""Extents."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field

from daiko.control.mappings import MappingRow


class MappingView(BaseModel):
    """A run of blocks of a volume, and where it lies."""

    volume: str
    lba: int = Field(description="First block in the volume")
    blocks: int
    block_size: int = Field(description="Bytes")
    device: str = Field(description="BACKEND/LUN")
    device_lba: int = Field(description="First block in the device")

    @classmethod
    def of(cls, row: MappingRow) -> Self:
        return cls.model_construct(
            volume=row.volume,
            lba=row.lba,
            blocks=row.blocks,
            block_size=row.block_size,
            device=row.device,
            device_lba=row.device_lba,
        )
