"""The titles of the tables of errors."""

from __future__ import annotations

from pathlib import Path

from analysis.tables.error_tables import error_grids
from sparse_rcnn.rundir.reader import Run
from tests.support.hand_boxes import two_stages
from tests.support.runs import make_evaluated_run


def test_titles_tell_all_tables_apart(tmp_path: Path) -> None:
    coco, stages = two_stages()
    a, b, c = (
        make_evaluated_run(tmp_path / root, "a", coco, stages[1], seed=seed, stages=stages)
        for root, seed in (("runs", 0), ("runs", 1), ("copies", 0))
    )
    for pair, names in (((a, b), (a.name, b.name)), ((a, c), (str(a), str(c)))):
        titles = [table.title for table in error_grids([Run(path) for path in pair], tmp_path / "val.json")]
        assert len(set(titles)) == len(titles)
        assert [title for title in titles if title.startswith("Duplicates by")] == [
            f"Duplicates by stage: {name}" for name in names
        ]
