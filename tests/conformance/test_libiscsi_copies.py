"""libiscsi's suites for third-party copies, against a real and a virtual LU over real wires."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from processes import Daiko, image, run

SUITES = ("ALL.ExtendedCopy", "ALL.ReceiveCopyResults")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A file served by one Daiko, and a virtual LU over that by another."""
    folder = tmp_path_factory.mktemp("copies")
    disk = image(folder / "disk.img", 16 << 20, seed=1)
    with Daiko(folder, disk, name="second") as second:
        url = second.url(0)
        with Daiko(folder, url, name="first") as first:
            yield {"real": url, "virtual": first.url(0)}


@pytest.mark.parametrize("kind", ["real", "virtual"])
@pytest.mark.parametrize("suite", SUITES)
def test_libiscsi_suite_passes(urls: dict[str, str], kind: str, suite: str) -> None:
    output = run("iscsi-test-cu", "-d", "-t", suite, urls[kind]).stdout
    summary = re.search(r"\n +tests +(\d+) +(\d+) +(\d+) +(\d+) ", output)
    assert summary is not None, output
    total, ran, passed, failed = map(int, summary.groups())
    assert total == ran == passed > 0, output
    assert failed == 0, output
    skipped = [line for line in output.splitlines() if "[SKIPPED]" in line]
    assert all("PERSISTENT RESERVE" in line for line in skipped), output
