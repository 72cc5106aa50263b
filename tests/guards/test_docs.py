"""What the documents point at exists, and so do the documents that the source names."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLACES = [ROOT / name for name in ("docs", "lab", "tests")]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for place in PLACES for kind in ("md", "ipynb") for path in place.rglob(f"*.{kind}")),
]
CODE = [path for name in ("src", "tests", "benchmarks", "lab") for path in (ROOT / name).rglob("*.py")]


def anchors(document):
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def dangling(document):
    """Relative links of a document that lead to no file, or to no title in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        found = (document.parent / path) if path else document
        if "://" not in target and (not found.exists() or (anchor and anchor not in anchors(found))):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    assert list(dangling(document)) == []


def test_a_planted_dead_link_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# A title, of two\n")
    planted = tmp_path / "page.md"
    planted.write_text(
        "[a](there.md#a-title-of-two) [b](there.md#none) [c](gone.md) [d](#none) [e](https://x.org/gone.md)"
    )
    assert list(dangling(planted)) == ["there.md#none", "gone.md", "#none"]


def test_documents_that_the_code_names_exist():
    named = {(path, name) for path in CODE for name in re.findall(r"docs/[\w/]+\.(?:md|ipynb)", path.read_text())}
    assert len(named) > 5
    assert [(str(path.relative_to(ROOT)), name) for path, name in named if not (ROOT / name).exists()] == []
