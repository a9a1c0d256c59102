"""Settings of the whole suite, and its order where two workers share it."""

from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

import pytest
from hypothesis import settings

import processes

# A deadline would make a property test a timing test: it fails on a busy machine.
settings.register_profile("daiko", settings.default, deadline=None)
settings.load_profile("daiko")

# Where it is set, each of the hundreds of processes that are started makes byte code anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
processes.FORKS = True

SOURCES = str(Path(__file__).parent.parent / "src")


def _sources_only(path: str) -> FileFinder:
    if not path.startswith(SOURCES):
        raise ImportError(path)
    return FileFinder(path, (SourceFileLoader, SOURCE_SUFFIXES))


# What tests import is the source, so that they can look into it, replace parts of it and see what
# they cover; the processes that they start run what is compiled. COMPILED=1: all do.
if not os.environ.get("COMPILED"):
    assert not any(name.startswith("daiko") for name in sys.modules)
    sys.path_hooks.insert(0, _sources_only)
    for path in [path for path in sys.path_importer_cache if path.startswith(SOURCES)]:
        del sys.path_importer_cache[path]


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
