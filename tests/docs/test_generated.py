"""The documents of docs/reference/ say what the code's tables say now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import generate_docs
from reference_docs import markdown

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", generate_docs.DOCUMENTS)
def test_reference_document_is_what_the_code_says(name: str) -> None:
    path = DOCS / "reference" / name
    assert path.exists(), f"docs/reference/{name} is missing: run `make docs`"
    text = generate_docs.DOCUMENTS[name]()
    assert path.read_text() == text, f"docs/reference/{name} is stale: run `make docs`"


def test_reference_folder_holds_nothing_else() -> None:
    found = {path.name for path in (DOCS / "reference").iterdir()}
    assert found == set(generate_docs.DOCUMENTS), "run `make docs`"


def test_stale_document_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_docs, "FOLDER", tmp_path)
    monkeypatch.setattr(generate_docs, "DOCUMENTS", {"a.md": lambda: "a\n", "b.md": lambda: "b\n"})
    (tmp_path / "a.md").write_text("a\n")
    (tmp_path / "b.md").write_text("older\n")
    (tmp_path / "gone.md").write_text("c\n")
    assert generate_docs.stale() == ["b.md", "gone.md"]
    monkeypatch.setattr("sys.argv", ["generate_docs.py", "--check"])
    with pytest.raises(SystemExit, match=r"b\.md, gone\.md; run `make docs`"):
        generate_docs.main()
    monkeypatch.setattr("sys.argv", ["generate_docs.py"])
    generate_docs.main()
    assert generate_docs.stale() == []
    assert (tmp_path / "b.md").read_text() == "b\n"


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


_LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize(
    "page",
    sorted(
        str(path.relative_to(DOCS.parent))
        for path in [*DOCS.rglob("*.md"), *DOCS.parent.glob("*.md")]
    ),
)
def test_links_of_a_page_lead_somewhere(page: str) -> None:
    path = DOCS.parent / page
    for link in _LINK.findall(path.read_text()):
        if "://" in link or link.startswith("#"):
            continue
        assert (path.parent / link.partition("#")[0]).exists(), f"{page} links to {link}"
