"""The annotations and the detections of a run: where they are looked for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.statistics.coco_columns import (
    load_detections,
    load_ground_truth,
)
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from tests.support.coco_numbers import random_coco
from tests.support.compared_runs import Suite, make_compared_runs
from tests.support.hand_boxes import coco_detections
from tests.support.truths import truth_of


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return make_compared_runs(tmp_path)


def test_the_annotations_are_found_above_the_run_or_given(suite: Suite, tmp_path: Path) -> None:
    run = Run(suite["good0"])
    truth = load_ground_truth(run)
    assert len(truth.image_ids) == 30
    assert len(load_detections(run, truth)) > 30
    moved = (tmp_path / "val.json").rename(tmp_path / "elsewhere.json")
    with pytest.raises(UserError, match=r"the validation annotations of .*, val.json, are not found: .*--annotations"):
        load_ground_truth(run)
    assert load_ground_truth(run, moved).image_ids.tolist() == truth.image_ids.tolist()
    moved.write_text(json.dumps(json.loads(moved.read_text()) | {"info": {}}))
    with pytest.raises(
        UserError, match=r"elsewhere.json is not what .* was evaluated on \(its fingerprint is another\)"
    ):
        load_ground_truth(run, moved)


def test_only_the_first_images_by_id_are_evaluated() -> None:
    coco, _ = random_coco(4)
    truth = truth_of(coco, num_images=3)
    first = sorted(image["id"] for image in coco["images"])[:3]
    assert truth.image_ids.tolist() == first
    assert len(truth.areas) == sum(record["image_id"] in first for record in coco["annotations"])


def test_detections_that_do_not_fit_are_refused() -> None:
    coco, found = random_coco(4)
    truth = truth_of(coco)
    with pytest.raises(UserError, match=r"detections of image 999, which the annotations lack: give .*--annotations"):
        coco_detections(truth, [found[0] | {"image_id": 999}])
    with pytest.raises(UserError, match="detections of category 2, which"):
        coco_detections(truth, [found[0] | {"category_id": 2}])
    with pytest.raises(UserError, match="no finite number"):
        coco_detections(truth, [found[0] | {"score": float("nan")}])
