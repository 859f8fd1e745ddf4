"""The paper's rows and the experiments that are each of them."""

from __future__ import annotations

import pytest

from analysis.paper.rows import EXPERIMENTS, experiments_of, published_rows, published_tables
from tests.support.paths import ROOT


def test_every_row_of_the_paper_is_one_of_ours() -> None:
    for table in EXPERIMENTS:
        rows = published_rows(table)
        assert len(rows) == len(published_tables()[table]["rows"])
        assert len({row.experiment for row in rows}) == len(rows)
    assert [(r.experiment, r.ap) for r in published_rows("table8")] == [("head_attention", 35.7), ("baseline", 42.3)]
    assert [r.ap for r in published_rows("table7")] == [21.7, 36.2, 39.9, 42.3, 41.6]
    assert [(r.experiment, r.ap) for r in published_rows("table9")] == [
        ("detr_epochs_300", 40.6),
        ("detr_without_position", 32.8),
        ("positional_encoding_sine", 41.9),
        ("baseline", 42.3),
    ]


def test_the_rows_of_table_1_are_named_by_detector_and_backbone() -> None:
    for experiment, row in zip(EXPERIMENTS["table1"], published_tables()["table1"]["rows"], strict=True):
        assert ("backbone_resnet101" in experiment) == (row["backbone"] == "R101")
        detector = row["detector"].lower().replace("r-cnn", "rcnn").replace("-", "_").replace(" ", "_")
        if detector.startswith("sparse"):
            assert experiment.endswith("num_proposals_300_crop") == detector.endswith("*")
        else:
            assert experiment.removesuffix("_backbone_resnet101") == detector


def test_every_row_has_a_configuration() -> None:
    ours = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    if missing := set(experiments_of(*EXPERIMENTS)) - ours:
        pytest.xfail(f"no conf/experiment of {', '.join(sorted(missing))}")
