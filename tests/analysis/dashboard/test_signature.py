"""Which files of a run the dashboard watches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.dashboard.signature import signature
from tests.support.runs import make_logged_run


@pytest.mark.parametrize("name", ["status.json", "results.json", "eval/step_00000300.json", "names/x", "views/1.json"])
def test_every_file_the_page_shows_is_watched(tmp_path: Path, name: str) -> None:
    path = make_logged_run(tmp_path)
    before = signature(path)
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_text(json.dumps({"state": "interrupted and longer"}))
    assert signature(path) != before
