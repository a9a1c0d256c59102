"""The documents of docs/reference/ say what the code's tables say now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import generate_docs
from reference_docs import changelog, markdown

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", generate_docs.DOCUMENTS)
def test_document_is_what_it_is_made_from(name: str) -> None:
    path = ROOT / name
    assert path.exists(), f"{name} is missing: run `make docs`"
    text = generate_docs.DOCUMENTS[name]()
    assert path.read_text() == text, f"{name} is stale: run `make docs`"


def test_reference_folder_holds_nothing_else() -> None:
    found = {f"docs/reference/{path.name}" for path in (ROOT / "docs" / "reference").iterdir()}
    assert found == generate_docs.DOCUMENTS.keys() - {"CHANGELOG.md"}, "run `make docs`"


def test_stale_document_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / generate_docs.REFERENCE
    a, b, c, gone = (f"{generate_docs.REFERENCE}/{name}.md" for name in ("a", "b", "c", "gone"))
    monkeypatch.setattr(generate_docs, "ROOT", tmp_path)
    monkeypatch.setattr(
        generate_docs,
        "DOCUMENTS",
        {a: lambda: "a\n", b: lambda: "b\n", c: lambda: "c\n", "TOP.md": lambda: "top\n"},
    )
    folder.mkdir(parents=True)
    for name, text in ((a, "a\n"), (b, "older\n"), (gone, "d\n"), ("TOP.md", "top\n")):
        (tmp_path / name).write_text(text)
    assert generate_docs.stale() == [b, c, gone]
    monkeypatch.setattr("sys.argv", ["generate_docs.py", "--check"])
    with pytest.raises(SystemExit, match=r"b\.md, .*c\.md, .*gone\.md; run `make docs`"):
        generate_docs.main()
    monkeypatch.setattr("sys.argv", ["generate_docs.py"])
    generate_docs.main()
    assert generate_docs.stale() == []
    assert (tmp_path / b).read_text() == "b\n"


def test_table_with_a_cell_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="1 cells in a table of 2 columns"):
        markdown.table(("a", "b"), [("only one",)])


def test_words_under_members_are_found() -> None:
    class Colour:
        RED = 1
        """Like
        blood."""
        GREEN = 2

    assert markdown.member_words(Colour) == {"RED": "Like blood."}


# --- the changelog


@pytest.mark.parametrize(
    "fragment",
    [
        pytest.param("A disk\n", id="no-kind"),
        pytest.param("kind: nice\nA disk\n", id="unknown-kind"),
        pytest.param("kind: new\n\nA disk\n", id="no-entry"),
        pytest.param("kind: new\nA disk\nand more\n", id="entry-of-two-lines"),
    ],
)
def test_fragment_of_another_form_is_refused(fragment: str) -> None:
    with pytest.raises(ValueError, match=r"changes/it\.md is not of the form"):
        changelog.parse(fragment, "it.md")


def test_changelog_has_releases_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changelog, "FOLDER", tmp_path)
    (tmp_path / "TEMPLATE").write_text("# how to\n")
    (tmp_path / "b.md").write_text("kind: fixed\nIt works\n\nIt did not.\n")
    (tmp_path / "c.md").write_text("kind: new\nA disk\n")
    for folder in ("0.9.0_2026-12-01", "0.10.0_2027-01-01"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.md").write_text(f"kind: better\nFaster in {folder}\n")
    lines = [line for line in changelog.document().splitlines() if line[:1] in ("#", "*")]
    assert lines == [
        "# Changes",
        "## Not released yet",
        "### New",
        "**A disk.**",
        "### Fixed",
        "**It works.** It did not.",
        "## 0.10.0, 2027-01-01",
        "### Better",
        "**Faster in 0.10.0_2027-01-01.**",
        "## 0.9.0, 2026-12-01",
        "### Better",
        "**Faster in 0.9.0_2026-12-01.**",
    ]
    (tmp_path / "later").mkdir()
    with pytest.raises(ValueError, match="VERSION_DATE"):
        changelog.document()


# --- links

_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize(
    "page",
    sorted(str(path.relative_to(ROOT)) for path in [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]),
)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for link in _LINK.findall(path.read_text()):
        if "://" in link or link.startswith("#"):
            continue
        assert (path.parent / link.partition("#")[0]).exists(), f"{page} links to {link}"
