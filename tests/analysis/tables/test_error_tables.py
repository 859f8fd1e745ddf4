"""The tables of errors: their titles, detectors without stages, and NMS."""

from __future__ import annotations

from pathlib import Path

from analysis.tables.error_tables import error_grids
from analysis.tables.formats import DASH
from sparse_rcnn.rundir.reader import Run
from tests.support.hand_boxes import two_stages
from tests.support.runs import config_without_stages, make_evaluated_run


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


def test_a_detector_without_stages_has_no_tables_of_them(tmp_path: Path) -> None:
    coco, stages = two_stages()
    config = config_without_stages()
    one = make_evaluated_run(tmp_path / "runs", "one", coco, stages[1], stages=[stages[1]], config=config)
    three = make_evaluated_run(tmp_path / "runs", "two", coco, stages[1], stages=stages, val__stage_0__AP=0.1)
    annotations = tmp_path / "val.json"
    alone = {table.title: table for table in error_grids([Run(one)], annotations)}
    assert [title for title in alone if "tage" in title or title.startswith("Duplicates")] == ["Duplicates: one"]
    (row,) = alone["Duplicates: one"].rows
    assert [cell.text for cell in row[:4]] == ["detections", "7", "4", "3"]
    both = {table.title: table for table in error_grids([Run(one), Run(three)], annotations)}
    by_stage = both["AP by stage, each stage's own output"]
    assert [row[1].text for row in by_stage.rows] == [DASH, DASH]
    assert by_stage.remarks == ("one has no stages.",)
    assert {"Duplicates: one", "Duplicates by stage: two"} <= both.keys()
    assert "Duplicates removed by later stages" not in both


def test_before_and_after_nms(tmp_path: Path) -> None:
    coco, stages = two_stages()
    config = config_without_stages()
    one = make_evaluated_run(tmp_path / "runs", "one", coco, stages[1], stages=[stages[1]], config=config)
    two = make_evaluated_run(tmp_path / "runs", "two", coco, stages[1], stages=stages)
    nms = error_grids([Run(one), Run(two)], tmp_path / "val.json", 0.3, 0.5)[-1]
    assert nms.title == "Before and after NMS"
    texts = [[cell.text for cell in row] for row in nms.rows]
    # Of seven detections four find a box and three are duplicates, all of which overlap a better one.
    duplicates = ["3", "0", "4", "4"]
    assert [row[:3] + row[6:] for row in texts] == [
        ["one", "detections", "IoU 0.5", *duplicates],
        ["two", "stage 0", "no", "1", "0", "1", "1"],
        ["two", "stage 1", "no", *duplicates],
    ]
    assert "at an IoU of 0.5, applied by this analysis" in nms.remarks[0]
    assert nms.remarks[1].startswith("one: the detector ends with NMS of its own")
    assert len(error_grids([Run(two)], tmp_path / "val.json")[-1].remarks) == 1
