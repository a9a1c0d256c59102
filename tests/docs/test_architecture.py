"""docs/architecture.md is true: the packages are those of the import contracts, every function that
it names exists, and the ways through the code are the ways that commands really take."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import daiko
from way_trace import Call, record

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
SOURCE = Path(daiko.__file__).parent

_LINE = re.compile(r"^\d+\. `(?P<module>[\w/]+\.py)`: `(?P<function>[\w.]+)` – \S", re.MULTILINE)
_HEADING = re.compile(r"^#{2,4} (?P<title>.+)$", re.MULTILINE)


def sections() -> dict[str, str]:
    """Heading -> the text up to the next heading of any level."""
    found = {}
    headings = list(_HEADING.finditer(PAGE))
    ends = [heading.start() for heading in headings[1:]] + [len(PAGE)]
    for heading, end in zip(headings, ends, strict=True):
        found[heading["title"]] = PAGE[heading.end() : end]
    return found


SECTIONS = sections()


def way(*titles: str) -> list[Call]:
    """The functions that sections name, one after the other."""
    return [
        Call(line["module"], line["function"])
        for title in titles
        for line in _LINE.finditer(SECTIONS[title])
    ]


def defined(path: Path) -> set[str]:
    """Qualified names of all functions and classes in a module."""

    def names(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield prefix + node.name
                yield from names(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.If | ast.Try | ast.For | ast.While | ast.With):
                yield from names(node.body, prefix)
                yield from names(getattr(node, "orelse", []), prefix)

    return set(names(ast.parse(path.read_text()).body, ""))


# --- the packages


def test_packages_are_those_of_the_import_contracts() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(each for each in contracts["contracts"] if each["type"] == "layers")["layers"]
    expected = {
        name.strip(): number
        for number, layer in enumerate(layers, 1)
        for name in re.split(r"[|:]", layer)
    }
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|(.*)\|$", SECTIONS["Packages"], re.MULTILINE)
    assert {name: int(line) for line, name, _ in rows} == expected
    pure = {name for _, name, what in rows if "*pure.*" in what}
    forbidden = next(each for each in contracts["contracts"] if each["name"].startswith("Pure"))
    assert {f"daiko.{name}" for name in pure} == set(forbidden["source_modules"])


def test_every_decision_is_listed() -> None:
    listed = set(re.findall(r"\(decisions/([\w-]+\.md)\)", SECTIONS["Decisions"]))
    assert listed == {path.name for path in (ROOT / "docs" / "decisions").glob("*.md")}


# --- what is named exists


@pytest.mark.parametrize(("module", "function"), sorted(set(way(*SECTIONS))), ids=str)
def test_function_named_on_the_page_exists(module: str, function: str) -> None:
    path = SOURCE / module
    assert path.exists(), f"docs/architecture.md names src/daiko/{module}, which is not there"
    assert function in defined(path), f"docs/architecture.md names {function}, not in {module}"


def test_code_named_in_running_text_exists() -> None:
    """`Class.function` and `function` beside the numbered lines."""
    everything = {name for path in SOURCE.rglob("*.py") for name in defined(path)}
    text = "".join(SECTIONS[title] for title in SECTIONS if way(title))
    for name in re.findall(r"`([A-Z_]\w*(?:\.\w+)*)`", _LINE.sub("", text)):
        assert name in everything or name.isupper() or name == "EXTENDED_COPY_LID1", name


def test_modules_named_in_running_text_exist() -> None:
    for name in re.findall(r"`(?:src/daiko/)?([a-z_]+/[\w/]+\.py)`", PAGE):
        assert (SOURCE / name).exists() or (ROOT / name).exists(), name


# --- the ways are the real ones

START = "From the socket to the plan"
ANSWER = "The answer"
WAYS = {
    "write": ("A WRITE(16) to a virtual LU over a second controller",),
    "long write": ("Where the data does not come with the command",),
    "file write": ("Where the LU is a file",),
    "delegated copy": (
        START,
        "Delegated: sd1 owns the source and reaches the backup device",
        ANSWER,
    ),
    "own copy": (START, "Own: old cannot copy", ANSWER),
    "mixed copy": ("Mixed: a segment across both halves", ANSWER),
    "copy of a file": ("Own, from file to file", ANSWER),
    "status": ("A RECEIVE COPY RESULTS",),
}
"""What was recorded -> the sections that tell it."""


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Call]]:
    return record(tmp_path_factory.mktemp("way"))


def first_missing(told: list[Call], happened: list[Call]) -> tuple[int, Call] | None:
    """The first told call that does not come after the one told before it: its number (from 1),
    and the call."""
    left = iter(happened)
    for number, call in enumerate(told, 1):
        if call not in left:  # consumes the iterator up to the call
            return number, call
    return None


def test_order_of_calls_is_looked_at() -> None:
    one, two, three = (Call("a.py", name) for name in ("one", "two", "three"))
    assert first_missing([one, three], [one, two, three]) is None
    assert first_missing([two, one], [one, two, three]) == (2, one)
    assert first_missing([one, one], [one, two, three]) == (2, one)


@pytest.mark.parametrize("what", WAYS)
def test_way_told_is_the_way_taken(what: str, traces: dict[str, list[Call]]) -> None:
    told = way(*WAYS[what])
    assert len(told) >= 7
    missing = first_missing(told, traces[what])
    assert missing is None, (
        f"docs/architecture.md, {' / '.join(WAYS[what])}: line {missing[0]}, {missing[1]}, "
        "is not called there; the page or the code is wrong"
    )


def test_every_way_on_the_page_is_tested() -> None:
    told = {title for title in SECTIONS if way(title)}
    assert told == {title for titles in WAYS.values() for title in titles}


def test_write_passes_through_no_module_that_the_page_leaves_out(
    traces: dict[str, list[Call]],
) -> None:
    named = {call.module for call in way(*WAYS["write"])}
    passed = {call.module for call in traces["write"]}
    assert passed - named <= {"initiator/command.py"}, "a data object only"


def test_write_makes_no_coroutine(traces: dict[str, list[Call]]) -> None:
    """The page says that the data path knows completions, not tasks."""
    coroutines = {
        (str(path.relative_to(SOURCE)), node.name)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
    }
    for what in ("write", "long write", "file write"):
        called = {(call.module, call.function.rpartition(".")[2]) for call in traces[what]}
        assert not called & coroutines


def test_only_the_delegated_part_of_a_copy_stays_out_of_this_controller(
    traces: dict[str, list[Call]],
) -> None:
    read = Call("copy_manager/local_copy.py", "_Transfer.read")
    handed = Call("copy_manager/lane.py", "Lane.carry_out")
    assert read not in traces["delegated copy"]
    assert handed in traces["delegated copy"]
    assert read in traces["own copy"]
    assert handed not in traces["own copy"]
    assert read not in traces["copy of a file"]
    assert read in traces["mixed copy"]
    assert handed in traces["mixed copy"]


def test_numbers_of_a_way_go_up_by_one() -> None:
    for title in WAYS.values():
        for each in title:
            numbers = [
                int(line.group().partition(".")[0]) for line in _LINE.finditer(SECTIONS[each])
            ]
            assert all(after == before + 1 for before, after in pairwise(numbers)), each
