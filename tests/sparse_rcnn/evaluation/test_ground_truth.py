"""Annotations that an evaluation refuses, by their file and record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparse_rcnn.data.findings import DataWarning
from sparse_rcnn.errors import DataError
from sparse_rcnn.evaluation import BACKENDS, CocoGroundTruth, evaluate_detections
from tests.support.coco_numbers import BOX, FAR, annotation, coco, detection


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds a list"),
        (json.dumps({"images": [], "annotations": []}), "has no 'categories'"),
        (json.dumps(coco([annotation(BOX, category_id=9)])), "annotation id 0 has category_id 9"),
        (json.dumps(coco([{**annotation(BOX, id=55), "bbox": [1, 2, 3]}])), r"annotation id 55 has bbox \[1, 2, 3\]"),
        (json.dumps({**coco([]), "images": [{"id": []}]}), r"image id \[\] has id \[\], a whole number or a text"),
    ],
)
def test_bad_annotation_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        CocoGroundTruth(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_absent_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json cannot be read"):
        CocoGroundTruth(tmp_path / "absent.json")


def test_the_ground_truth_of_a_file_is_that_of_its_data_set(tmp_path: Path) -> None:
    """What the data set leaves out is not counted as missed: boxes of no area, and of images that are not listed."""
    content = coco([annotation(BOX), annotation([1, 2, 3, 0]), annotation(BOX, image_id=9), annotation(FAR)])
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with pytest.warns(DataWarning) as warned:
        ground_truth = CocoGroundTruth(path)
    assert len(warned) == 2
    assert ground_truth.annotations.boxes_xywh_abs.tolist() == [BOX, FAR]


@pytest.mark.filterwarnings("ignore::sparse_rcnn.data.findings.DataWarning")
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_may_spell_ids_as_the_file_does(backend: str) -> None:
    content = coco([annotation(BOX, image_id="a_1"), annotation(FAR, image_id="b")], image_ids=("b", "a_1"))
    content["categories"][0]["id"] = "1"
    detections = [detection(FAR, image_id="b"), {**detection(BOX, image_id="a_1"), "category_id": "1"}]
    assert evaluate_detections(content, detections, backend).summary["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match="image id 'c' is not in the annotations"):
        evaluate_detections(content, [detection(BOX, image_id="c")], backend)
