"""The curves of figure 1 and the published points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.figures.convergence import curves, published_points
from analysis.summaries import load_summaries
from sparse_rcnn.errors import UserError
from tests.support.runs import make_logged_run, make_run


def test_curves_are_means_over_seeds_of_the_evaluations(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", 0, evaluations={1.0: 0.1, 10.0: 0.5})
    make_run(tmp_path, "baseline", 1, evaluations={1.0: 0.2, 10.0: 0.7, 5.5: 0.4})
    make_run(tmp_path, "baseline", 2, state="running", evaluations={1.0: 0.9})
    (found,) = curves(load_summaries([tmp_path]), "mini")
    assert (found.name, found.epochs, found.n) == ("baseline", (1.0, 5.5, 10.0), 2)
    assert found.mean == pytest.approx((15, 40, 60))
    assert found.low == pytest.approx((10, 40, 50))
    assert found.high == pytest.approx((20, 40, 70))


def test_the_time_of_work_until_each_evaluation(tmp_path: Path) -> None:
    summaries = [make_logged_run(tmp_path, seed=0), make_logged_run(tmp_path, seed=1)]
    resumed = "2026-01-01T01:00:00+00:00"
    late = make_logged_run(tmp_path, "detr", identity="b" * 12, meta={"resumes": [{"resumed_at": resumed}]})
    lines = (late / "metrics.jsonl").read_text().splitlines(keepends=True)
    # The second half was done by a process that started an hour later.
    moved = [json.loads(line) for line in lines]
    moved = [item | {"time": item["time"] + 3600 * (item["step"] > 150)} for item in moved]
    (late / "metrics.jsonl").write_text("".join(json.dumps(item) + "\n" for item in moved))
    without = make_logged_run(tmp_path, "retinanet", identity="c" * 12, num_stages=0)
    (without / "metrics.jsonl").unlink()
    found = {curve.name: curve for curve in curves(load_summaries([tmp_path]), "mini")}
    assert found["baseline"].epochs == (1.5, 3.0)
    assert [3600 * hours for hours in found["baseline"].hours] == pytest.approx([150.5, 300.5])
    assert [3600 * hours for hours in found["detr"].hours] == pytest.approx([150.5, 300.5], abs=2)
    assert found["retinanet"].hours == ()
    assert len(summaries) == found["baseline"].n


def test_which_rows_are_drawn(tmp_path: Path) -> None:
    make_run(tmp_path, "baseline", evaluations={1.0: 0.1})
    make_run(tmp_path, "stages_6", evaluations={1.0: 0.1})
    make_run(tmp_path, "backbone_resnet101", evaluations={})
    summaries = load_summaries([tmp_path])
    assert [curve.name for curve in curves(summaries, "mini")] == ["baseline"]
    assert [curve.name for curve in curves(summaries, "mini", ["stages_6", "baseline"])] == ["stages_6", "baseline"]
    with pytest.raises(
        UserError, match="stages_12 has no finished run of recipe mini: leave it out of --experiments or train it"
    ):
        curves(summaries, "mini", ["baseline", "stages_12"])
    with pytest.raises(UserError, match=r"none of backbone_resnet101 has .* with evaluations: name other rows"):
        curves(summaries, "mini", ["backbone_resnet101"])


def test_published_points_are_table_1s() -> None:
    points = published_points()
    assert points["DETR R50"] == (500, 42.0)
    assert points["Sparse R-CNN R50"] == (36, 42.3)
    assert list(points) == ["RetinaNet R50", "Faster R-CNN R50", "DETR R50", "Sparse R-CNN R50"]
