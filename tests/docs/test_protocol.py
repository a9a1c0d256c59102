"""docs/protocol.md says of every byte what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daiko.backend import site_link, site_reading, site_session
from daiko.command_control.site_terms import FUNCTION_CODES, MODE_CODES
from daiko.scsi import pair_envelopes, site, site_parameters, site_values
from daiko.scsi.layout import Layout
from daiko.scsi.opcode import Opcode, SiteIn, SiteOut
from daiko.scsi.site_parameters import Kind, Page
from daiko.target.commands.site import PAIRS_AT_WORK
from scsi.golden import golden

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()
LAYOUTS = {
    layout.name: layout
    for module in (site_parameters, site_values, pair_envelopes)
    for layout in vars(module).values()
    if isinstance(layout, Layout)
}


def section(title: str) -> str:
    start = TEXT.index(f"\n### {title}\n")
    return TEXT[start + 5 : TEXT.find("\n##", start + 5)]


def section_of_pairs() -> str:
    return TEXT[TEXT.index("\n## Pairs\n") : TEXT.index("\n## Codes\n")]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_the_one_of_the_code(name: str) -> None:
    first_table = section(name).split("\n\n")[1]
    said: dict[str, str] = {}
    for bytes_, fields, *_ in rows(first_table):
        said |= dict.fromkeys(fields.split(", "), bytes_)
    assert said == {
        field.name: f"{field.byte}"
        if field.end == field.byte + 1
        else f"{field.byte}–{field.end - 1}"
        for field in LAYOUTS[name].fields
    }


def test_fields_of_the_cdb_lie_where_they_are_said_to_lie() -> None:
    table = rows(TEXT[TEXT.index("Both have 16 bytes") : TEXT.index("A field that a service")])
    said = {field: bytes_ for bytes_, field, *_ in table}
    found = {
        field.name.upper().replace("_", " "): f"{field.byte}"
        if field.end == field.byte + 1
        else f"{field.byte}–{field.end - 1}"
        for layout in (site.VolumeMapping, site.AskFunction)
        for field in layout.fields
    }
    found["OPERATION CODE"] = found.pop("OPCODE")
    assert said == found
    assert f"SITE IN is {Opcode.SITE_IN:02X}h, SITE OUT is {Opcode.SITE_OUT:02X}h" in TEXT


def test_service_actions_and_kinds_are_those_of_the_code() -> None:
    found = re.findall(r"^\| ([0-9A-F]{2})h \| ([A-Z ]+) \|", TEXT, re.MULTILINE)
    assert found == [
        (f"{action:02X}", action.name.replace("_", " ")) for action in (*SiteIn, *SiteOut)
    ]
    envelopes = re.findall(r"^\| (\d) \| ([A-Z ]+) \|.*\|$", section_of_pairs(), re.MULTILINE)
    assert envelopes == [(str(int(kind)), kind.name) for kind in pair_envelopes.PairKind]
    kinds = re.findall(r"^\| (\d) \| ([A-Z ]+) \|$", TEXT, re.MULTILINE)
    assert kinds == [(str(int(kind)), kind.name.replace("_", " ")) for kind in Kind]


def test_codes_of_pairs_are_those_of_the_code() -> None:
    text = section_of_pairs()
    for codes in (pair_envelopes.StateCode, pair_envelopes.Mixture, pair_envelopes.Verdict):
        words = [f"{int(code)} {code.name.lower().replace('_', ' ')}" for code in codes]
        said = ", ".join(words).removeprefix("0 none, " if len(words) == 7 else "")
        assert said.replace("3 unknown,", "3 unknown pair,") in text
    assert f"at most {pair_envelopes.MOST_MARKS >> 10} KiB" in text
    least, most = pair_envelopes.GRANULARITIES
    assert f"{least >> 10} KiB to {most >> 20} MiB" in text
    contents = site_parameters.HEADER_LENGTH + site_parameters.DESCRIPTOR_LENGTH
    assert f"PARAMETER LIST, byte {contents}" in text


def test_codes_are_those_of_the_code() -> None:
    table = rows(TEXT[TEXT.index("## Codes") : TEXT.index("## Versions")])
    columns = [
        [(int(row[at]), row[at + 1]) for row in table if row[at] and row[at].isdigit()]
        for at in (0, 2, 4, 6)
    ]
    functions, answers, known, modes = columns
    assert functions == [(int(c), f.value.replace("-", " ")) for f, c in FUNCTION_CODES.items()]
    assert answers == [(int(a), a.name.lower().replace("_", " ")) for a in site_values.Answer]
    assert [code for code, _ in known] == [int(k) for k in site_values.KnownCode]
    assert modes == [(code, mode.value) for mode, code in MODE_CODES.items()]


def test_example_is_the_golden_one() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", TEXT[TEXT.index("## An example") :], re.M | re.S)
    cdb, answer = (
        bytes.fromhex(" ".join(line.partition("#")[0] for line in block.splitlines()))
        for block in blocks
    )
    assert cdb == site.VolumeMapping.pack(lun=1, allocation_length=262_144)
    assert answer == golden("site_volume_mapping")
    assert Page.parse(answer).version == (site_parameters.MAJOR, site_parameters.MINOR)


def test_bounds_are_those_of_the_code() -> None:
    for words in (
        f"at most {site_parameters.LONGEST_PAGE >> 20} MiB and lies whole",
        f"at most {site_reading.MOST_VOLUMES:,} descriptors",
        f"FUNCTION TABLE has at most {site_reading.MOST_CELLS:,}, PAIR IN at most "
        f"{site_link.MOST_ENVELOPES:,} of {site_link.MOST_ENVELOPE_BYTES >> 20} MiB",
        f"IPv6 in brackets, at most {site_values.MOST_NAMES}.",
        f"at most {site_reading.MOST_DEVICES:,} devices and {site_reading.MOST_EXTENTS:,} extents",
        f"An exchange has {site_session.EXCHANGE_SECONDS:g} seconds",
        f"together {site_session.READING_SECONDS:g}",
        f"greets every {site_session.GREET_SECONDS:g} seconds",
        f"BUSY: {PAIRS_AT_WORK} PAIR commands",
        f"at most {site_values.LONGEST_ENVELOPE >> 20} MiB",
    ):
        assert words in " ".join(TEXT.split()), words
    assert site_reading.READINGS == 3
    assert "three times at most" in TEXT
