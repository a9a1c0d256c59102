"""Where administrators reach the controller, as every unit tells its hosts (VPD page 85h)."""

from __future__ import annotations


class ManagementAddresses:
    """The URLs of the management: one object for all units of a controller."""

    __slots__ = ("urls",)

    def __init__(self, urls: tuple[str, ...] = ()) -> None:
        self.urls = urls


NO_ADDRESSES = ManagementAddresses()
