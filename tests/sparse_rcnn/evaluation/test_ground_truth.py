"""Annotations that an evaluation refuses, by their file and record."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sparse_rcnn.errors import DataError
from sparse_rcnn.evaluation import (
    CocoGroundTruth,
)
from tests.support.coco_numbers import BOX, annotation, coco


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "holds a list"),
        (json.dumps({"images": [], "annotations": []}), "no list 'categories'"),
        (json.dumps(coco([annotation(BOX, image_id=9)])), "annotation 0 is of image 9"),
        (json.dumps(coco([annotation(BOX, category_id=9)])), "annotation 0 has category 9"),
        (json.dumps(coco([annotation([1, 2, -3, 4], id=55)])), r"annotation 55 has bbox \[1, 2, -3, 4\]"),
        (json.dumps(coco([annotation(BOX, area=math.nan)])), "annotation 0 has area nan"),
        (json.dumps(coco([], image_ids=(4, 4))), "image id 4 occurs twice"),
        (json.dumps({**coco([]), "images": [{"id": "a"}]}), "image id 'a' is not an integer"),
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
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        CocoGroundTruth(tmp_path / "absent.json")
