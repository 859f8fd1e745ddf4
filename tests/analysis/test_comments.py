"""The hand-written paragraphs of a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.commands.report import SECTIONS
from analysis.comments import Comments, read_comments
from sparse_rcnn.errors import UserError


def test_comments_that_fit_nowhere_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "comments.md"
    assert read_comments(path, SECTIONS) == Comments({}, None)
    path.write_text("## tabel8\nx\n")
    with pytest.raises(UserError, match="has a section 'tabel8'; the page has overview, figure1, figure4, "):
        read_comments(path, SECTIONS)
    path.write_text("## table8\nx\n## table8\ny\n")
    with pytest.raises(UserError, match="has the section 'table8' twice: join them"):
        read_comments(path, SECTIONS)
    path.write_text("## table8\nx\n\n### Below\ny\n## errors\n")
    assert read_comments(path, SECTIONS) == Comments({"table8": "x\n\n### Below\ny", "errors": ""}, None)
