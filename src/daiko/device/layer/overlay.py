"""A layer that comes and goes on a living device: what is put over a volume while a job runs.

Whoever puts it there keeps the stack right: when the device below is exchanged for another it sets
`below` and `capabilities`, and when that is larger it calls `grow`.
"""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from daiko.device.block import Capabilities
from daiko.device.layer.layer import Layer


@mypyc_attr(allow_interpreted_subclasses=True)
class Overlay(Layer):
    """Passes on what a `Layer` does."""

    def grow(self, capabilities: Capabilities) -> None:
        """The device below has more blocks now, and perhaps other capabilities."""
        self.capabilities = capabilities
        self.blocks = self.below.blocks

    def close(self) -> None:
        """Leaves the device below open."""
