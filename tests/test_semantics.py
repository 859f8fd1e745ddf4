"""docs/semantics.md: whoever cites a section of it names one that exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENT = ROOT / "docs" / "semantics.md"
FOLDERS = ("sparse_rcnn", "experiments", "analysis", "conf", "docs", "tests")
SUFFIXES = (".py", ".yaml", ".md", ".html", ".js")


def texts() -> Iterator[tuple[Path, str]]:
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in SUFFIXES]
    for file in (*files, *ROOT.glob("*.md")):
        yield file.relative_to(ROOT), file.read_text(encoding="utf-8")


def anchors() -> list[str]:
    """As GitHub and MkDocs make them of the headings."""
    headings = re.findall(r"^#+ (.+)$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_every_reference_names_a_section() -> None:
    existing = anchors()
    assert len(set(existing)) == len(existing)
    cited = [(file, name) for file, text in texts() for name in re.findall(r"semantics\.md#([\w-]*)", text)]
    assert len(cited) > 40
    assert [(str(file), name) for file, name in cited if name not in existing] == []
    within = re.findall(r"\]\(#([\w-]+)\)", DOCUMENT.read_text(encoding="utf-8"))
    assert within
    assert [name for name in within if name not in existing] == []


def test_the_files_it_points_to_exist() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|yaml))", text))
    assert len(named) > 15
    missing = [name for name in sorted(named) if not any((ROOT / base / name).exists() for base in ("", "sparse_rcnn"))]
    assert missing == []


def test_the_rows_it_points_to_exist() -> None:
    rows = re.findall(r"[Rr]ow\s+`(\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(rows) > 5
    assert [row for row in rows if not (ROOT / "conf" / "experiment" / f"{row}.yaml").exists()] == []


def test_nothing_cites_a_document_that_is_not_here() -> None:
    # A reader has no numbered specification to look in.
    pattern = re.compile(r"\((?i:spec)|\b(?i:spec) \d")
    found = [f"{file}: {match[0]}" for file, text in texts() for match in pattern.finditer(text)]
    assert found == []
