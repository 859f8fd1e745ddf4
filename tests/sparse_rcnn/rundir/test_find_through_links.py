"""Runs behind links: found once, and nothing outside the root is listed."""

from __future__ import annotations

from pathlib import Path

from analysis.dashboard.watched_runs import WatchedRuns
from sparse_rcnn.rundir.find import find_foreign_folders, find_runs
from sparse_rcnn.rundir.run_progress import read_overview
from tests.support.runs import make_run


def test_a_linked_run_does_not_bring_its_neighbours(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "runs"
    linked = make_run(store, "baseline")
    make_run(store, "baseline", 1)
    own = make_run(root, "stages_1")
    (root / "baseline").mkdir()
    (root / "baseline" / linked.name).symlink_to(linked)
    expected = [root / "baseline" / linked.name, own]
    assert [run.path for run in find_runs(root)] == expected
    assert find_foreign_folders(root) == []
    assert [run.path for run in read_overview([root]).runs] == expected
    runs = WatchedRuns(root, 10**7)
    runs.read()
    assert runs.num_runs == 2


def test_a_linked_folder_of_runs_is_searched_and_its_other_folders_are_named(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "runs"
    run = make_run(store, "baseline")
    (store / "baseline" / "half-created").mkdir()
    root.mkdir()
    (root / "baseline").symlink_to(store / "baseline")
    assert [found.path for found in find_runs(root)] == [root / "baseline" / run.name]
    assert find_foreign_folders(root) == [root / "baseline" / "half-created"]
