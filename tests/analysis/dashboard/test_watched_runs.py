"""The dashboard's content: which folders it is of, and what is read again when files change."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("plotly", reason="the dashboard draws with plotly, which is not installed")

from analysis.dashboard.page import build_page
from analysis.dashboard.record import read_record
from analysis.dashboard.watched_runs import PageContent, WatchedRuns
from sparse_rcnn.errors import UserError
from tests.support.dashboard_pages import data_in
from tests.support.runs import event, make_logged_run


@pytest.mark.parametrize("name", ["config.json", "status.json", "results.json", "eval/step_00000300.json"])
@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "null",
        "7",
        '{"metrics": 1, "per_class": [], "state": {}, "step": "x"}',
        '{"val/bbox/AP": "good", "per_class": {"a": 1}, "precision_recall": {"0.5": [1]}}',
        '{"val/bbox/AP": 1e999, "a": NaN, "step": 1e400, "\\ud800": "\\ud800"}',
    ],
)
def test_whatever_a_file_holds_the_page_is_made(tmp_path: Path, name: str, content: str) -> None:
    good = make_logged_run(tmp_path, "good")
    path = make_logged_run(tmp_path, "bad")
    (path / name).write_text(content)
    made = WatchedRuns(tmp_path, 10**8).read()
    rows = data_in(build_page(made.data, made.views))["runs"]
    assert [row["key"] for row in rows] == ["bad/0123456789ab-seed0", "good/0123456789ab-seed0"]
    assert rows[1]["ap"][0] == 50.0
    assert good.is_dir()


def test_places_of_runs(tmp_path: Path) -> None:
    first, second = make_logged_run(tmp_path, "a"), make_logged_run(tmp_path, "b", 1)
    flat = tmp_path / "copied"
    second.rename(flat)
    (tmp_path / "b" / "half").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".sweeps" / "x").mkdir(parents=True)
    (tmp_path / "note.txt").touch()
    # A run in the root makes the folders beside it places of runs.
    keys = [row["key"] for row in json.loads(WatchedRuns(tmp_path, 10**8).read().data)["runs"]]
    assert keys == [f"a/{first.name}", "b", flat.name, "empty"]
    assert read_record(first, first).row["key"] == first.name
    with pytest.raises(UserError, match="absent does not exist; give the runs_root"):
        WatchedRuns(tmp_path / "absent", 10**6).read()


def test_only_changed_runs_are_read_again(tmp_path: Path) -> None:
    paths = [make_logged_run(tmp_path, name) for name in "abc"]
    runs = WatchedRuns(tmp_path, 10**8)
    first = runs.read()
    assert runs.read().is_as(first)
    for path in paths[:2]:
        replace_unseen(path / "meta.json", "mini", "maxi")
    assert runs.read().is_as(first), "no file that seems to have changed is read"
    with (paths[1] / "metrics.jsonl").open("a") as file:
        file.write(event("train", 400, {"train/loss/total": 0.5}))
    second = runs.read()
    assert recipes(second) == {"a": "mini", "b": "maxi", "c": "mini"}
    assert not second.is_as(first)
    assert second.views_version == first.views_version
    make_logged_run(tmp_path, "d")
    assert recipes(runs.read()) == {"a": "mini", "b": "maxi", "c": "mini", "d": "mini"}


def replace_unseen(path: Path, old: str, new: str) -> None:
    """Change a file, but neither its size nor its time."""
    before, content = path.stat(), path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def recipes(content: PageContent) -> dict[str, str]:
    return {row["name"]: row["recipe"] for row in json.loads(content.data)["runs"]}
