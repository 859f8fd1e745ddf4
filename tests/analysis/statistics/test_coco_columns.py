"""The annotations and the detections of a run: where they are looked for, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from analysis.statistics.coco_columns import (
    load_detections,
    load_ground_truth,
    load_stage_detections,
)
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.reader import Run
from tests.support.coco_numbers import random_coco
from tests.support.compared_runs import Suite, make_compared_runs
from tests.support.hand_boxes import coco_detections, two_stages
from tests.support.runs import edit_meta, make_evaluated_run, write_json
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


def begun_with(run: Path, coco: dict[str, Any], num_images: int, found: list[dict[str, Any]], **record: Any) -> Run:
    """A run of another annotation file, with the record of its validation set."""
    content = json.dumps(coco).encode()
    (run.parents[2] / "val.json").write_bytes(content)
    val = {"fingerprint": hashlib.sha256(content).hexdigest(), "num_images": num_images, "annotations": "val.json"}
    edit_meta(run, data={"val": val})
    write_json(run / "detections.json", found)
    if record:
        write_json(run / "data.json", {"val": record})
    return Run(run)


def three_images(category_id: Any = 1) -> dict[str, Any]:
    boxes = {1: [1, 1, 5, 5], 2: [2, 2, 5, 5], 3: [70, 1, 5, 5]}  # the last is outside
    return {
        "images": [{"id": i, "width": 40, "height": 60} for i in boxes],
        "annotations": [
            {"id": i, "image_id": i, "category_id": category_id, "bbox": box, "area": 25} for i, box in boxes.items()
        ],
        "categories": [{"id": category_id, "name": "cat"}],
    }


def test_the_images_and_boxes_are_those_of_the_record(suite: Suite) -> None:
    outside = {"kind": "boxes outside", "items": [2]}  # of a picture that was turned, which the file does not say
    run = begun_with(suite["good0"], three_images(), 2, [], left_out_image_ids=[1], findings=[outside])
    truth = load_ground_truth(run)
    assert truth.image_ids.tolist() == [2, 3]
    assert truth.boxes_xywh_abs.tolist() == [[70, 1, 5, 5]]


def test_a_run_from_before_the_record_was_evaluated_on_all_boxes(suite: Suite) -> None:
    truth = load_ground_truth(begun_with(suite["good0"], three_images(), 3, []))
    assert truth.boxes_xywh_abs[:, 0].tolist() == [1, 2, 70]


def test_a_class_that_a_file_of_ids_as_text_lacks(suite: Suite) -> None:
    """Its id is one of ours, and so no text."""
    found = [{"image_id": i, "category_id": c, "bbox": [1, 1, 2, 2], "score": 0.5} for i, c in ((1, "5"), (2, 6))]
    categories = [{"id": 6, "name": "dog"}, {"id": 5, "name": "cat"}]
    run = begun_with(suite["good0"], three_images("5"), 3, found, categories=categories)
    truth = load_ground_truth(run)
    assert truth.class_names == ("cat", "dog")
    assert load_detections(run, truth).category_indices.tolist() == [0, 1]
    write_json(run.path / "detections.json", [found[0] | {"category_id": "7"}])
    with pytest.raises(UserError, match="detections of category 7, which"):
        load_detections(run, truth)


@pytest.mark.parametrize(
    ("config", "results", "number"),
    [
        ({"num_stages": 3}, {}, 3),
        ({"num_stages": None}, {"val__stage_0__AP": 0.5, "val__stage_1__AP": 0.0, "val__stage_2__AP": 0.0}, 3),
        ({"num_stages": None}, {}, 1),
    ],
)
def test_stages_that_found_nothing_are_stages(
    config: dict[str, Any], results: dict[str, float], number: int, tmp_path: Path
) -> None:
    coco, (first, _) = two_stages()
    run = Run(make_evaluated_run(tmp_path / "runs", "a", coco, first, stages=[first, [], []], config=config, **results))
    stages = load_stage_detections(run, load_ground_truth(run, tmp_path / "val.json"))
    assert [len(stage) for stage in stages] == [len(first), 0, 0][:number]
