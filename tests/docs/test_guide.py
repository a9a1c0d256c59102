"""What the pages tell a reader to type, send or expect is what the product takes and gives."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from daiko.api.app import create_app
from daiko.cli.error import ExitCode
from daiko.command_control.command_table import BY_NAME
from daiko.control.document import Document
from daiko.control.system import System
from daiko.copy_manager.settings import CopySettings
from daiko.main import app
from daiko.state.record import JobState
from daiko.target.commands import inquiry
from daiko.target.commands.third_party_copy import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()
PAGES = ("README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/supported.md", "docs/glossary.md")
COMMAND = typer.main.get_command(app)
ABOUT_ANY = frozenset({"…", "…`", "COMMAND", "ARGUMENTS"})


def typed(page: str) -> list[tuple[str, bool]]:
    """(command line, is it whole): lines of code blocks are, commands in running text may break
    off."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [(line, True) for line in lines if line.startswith("daiko ")]
    running = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found += [(part, False) for part in re.findall(r"`(daiko [^`]+)`", running)]
    return found


def check(line: str, *, whole: bool) -> None:
    """Raise AssertionError where the command line would not take it."""
    line = re.sub(r"\s+&$", "", line)
    if not whole:
        line = re.sub(r"[\[\]]", "", line)  # what may be left out
    words = shlex.split(line, comments=True)
    assert words.pop(0) == "daiko"
    command: Any = COMMAND
    path = ["daiko"]
    given: list[str] = []
    seen: set[str] = set()
    while words:
        word = words.pop(0)
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            known = (each for each in command.params if name in (*each.opts, *each.secondary_opts))
            option = next(known, None)
            assert option is not None, f"{' '.join(path)} has no option {name}"
            seen.add(option.name)
            if not option.is_flag and not equals:
                assert words or not whole, f"{name} of {' '.join(path)} has no value"
                words = words[1:]
        elif getattr(command, "commands", None):
            choices = word.split("|")
            word = choices[0]
            if word in ABOUT_ANY and not whole:
                return
            for each in choices:
                assert each in command.commands, f"{' '.join(path)} has no {each}"
            command = command.commands[word]
            path.append(word)
        else:
            given.append(word)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    if any(each.nargs == -1 for each in arguments):
        most = len(given)
    else:
        most = len(arguments)
    assert len(given) <= most, f"{' '.join(path)} takes {most} arguments"
    if whole:
        least = sum(each.required for each in arguments)
        assert len(given) >= least, f"{' '.join(path)} needs {least} arguments"
        missing = {
            each.name
            for each in command.params
            if each.param_type_name == "option" and each.required and each.name not in seen
        }
        assert not missing, f"{' '.join(path)} needs {missing}"
        assert not getattr(command, "commands", None) or seen, f"{' '.join(path)} needs a verb"


@pytest.mark.parametrize(
    ("page", "line", "whole"),
    [
        pytest.param(page, line, whole, id=f"{page}:{line[:60]}")
        for page in PAGES
        for line, whole in dict.fromkeys(typed(page))
    ],
)
def test_command_of_a_page_is_one_that_the_command_line_takes(
    page: str, line: str, whole: bool
) -> None:
    check(line, whole=whole)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("daiko volume shrink alpha", id="no-such-verb"),
        pytest.param("daiko volume add alpha --bigger", id="no-such-option"),
        pytest.param("daiko backup run alpha", id="required-option-missing"),
        pytest.param("daiko job show", id="argument-missing"),
        pytest.param("daiko job show 1 2", id="argument-too-many"),
    ],
)
def test_command_that_does_not_exist_is_found_out(line: str) -> None:
    with pytest.raises(AssertionError):
        check(line, whole=True)


def test_pages_name_many_commands() -> None:
    """The search finds what it is to check."""
    assert len(typed("docs/guide.md")) > 50
    assert len(typed("README.md")) > 15


def test_system_file_of_the_guide_is_one_that_apply_takes() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        document = Document.parse(block)
        named = tomllib.loads(block)
        assert set(document.volume) == set(named["volume"])


def test_exit_codes_of_the_guide_are_those_of_the_command_line() -> None:
    section = GUIDE[GUIDE.index("Exit codes:") :]
    table = section[: section.index("\n\n", section.index("|"))]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [
        code.value for code in ExitCode
    ]


def test_resources_of_the_guide_are_in_the_description_of_the_api() -> None:
    description = create_app(cast(System, None)).openapi()
    paths = [re.sub(r"{\w+}", r"[^/]+", path) for path in description["paths"]]
    named = set(re.findall(r"`(GET|POST|PUT|DELETE) (/v1[^`?]*)", GUIDE))
    assert named
    for method, path in named - {("GET", "/v1/openapi.json")}:
        assert any(re.fullmatch(known, path) for known in paths), f"{method} {path}"


def test_fields_of_a_job_in_the_guide_are_those_of_the_api() -> None:
    schemas = create_app(cast(System, None)).openapi()["components"]["schemas"]
    fields: set[str] = set()
    for name in ("BackupView", "JobView", "StepReport", "StepView", "RejectionView"):
        fields |= set(schemas[name]["properties"])
    section = GUIDE[GUIDE.index("| field | meaning |") : GUIDE.index("Exit codes:")]
    states = {state.value for state in JobState} | {"backup", "restore", "copy"}
    for name in re.findall(r"`(\w+)`", section):
        assert name in fields | states, name


# --- what is said to be supported


SUPPORTED = (ROOT / "docs" / "supported.md").read_text()


def row(name: str) -> str:
    """What the table of supported.md says of something that works."""
    found = re.search(rf"^\| \*\*{re.escape(name)}\*\* \| (.*) \|$", SUPPORTED, re.MULTILINE)
    assert found, f"docs/supported.md has no row {name}"
    return found[1]


def test_pages_said_to_be_there_are_those_that_inquiry_answers() -> None:
    said = re.search(r"VPD pages ([0-9A-F ]+);", row("SCSI"))
    assert said
    assert [int(code, 16) for code in said[1].split()] == sorted(inquiry.PAGES)


def test_third_party_copy_said_to_work_is_what_the_copy_manager_states() -> None:
    said = row("Third-party copy, asked by a host")
    types = {int(code, 16) for code in re.findall(r"\b([0-9A-F]{2})h\b", said)}
    assert types == set(PARAMETERS.descriptor_types)
    assert f"up to {PARAMETERS.max_cscds} CSCDs, {PARAMETERS.max_segments} segments" in said
    assert f"{CopySettings().running_host_jobs} such copies" in said
    assert PARAMETERS.total_concurrent == CopySettings().running_host_jobs


def test_commands_said_to_be_missing_are_in_no_row_of_the_table() -> None:
    missing = SUPPORTED[SUPPORTED.index("## Not yet") : SUPPORTED.index("## Not\n")]
    cells = [line.split("|")[1] for line in missing.splitlines() if line.startswith("| ")]
    names = {name.strip().replace(" ", "_") for cell in cells for name in re.split(r"[,/]", cell)}
    assert names
    assert not names & set(BY_NAME)
