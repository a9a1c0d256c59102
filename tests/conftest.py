"""Settings of the whole suite."""

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

from hypothesis import settings

# A deadline would make a property test a timing test: it fails on a busy machine.
settings.register_profile("daiko", settings.default, deadline=None)
settings.load_profile("daiko")

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
