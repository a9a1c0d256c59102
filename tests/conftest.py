"""Settings of the whole suite, and its order where two workers share it."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A deadline would make a property test a timing test: it fails on a busy machine.
settings.register_profile("daiko", settings.default, deadline=None)
settings.load_profile("daiko")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take minutes first: a worker takes a file as a whole, in this order, and begun
    last such a file would leave the other worker idle until it ends."""
    if not hasattr(config, "workerinput"):
        return  # Alone there is nobody to wait, and quick failures are better seen first.
    with_guests = {item.path for item in items if item.get_closest_marker("lab")}

    def turn(item: pytest.Item) -> int:
        if item.path.parent.name == "conformance":
            return 0
        if item.path in with_guests:
            return 1
        return 2 if item.path.parent.name == "system" else 3

    items.sort(key=turn)
