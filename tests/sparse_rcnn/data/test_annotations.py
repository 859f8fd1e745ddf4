"""Reading COCO files: what is accepted, what is refused and in which words."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest

from sparse_rcnn.data.annotations import read_annotations
from sparse_rcnn.errors import DataError
from tests.support.coco_files import box_record, small_set, write_annotations


def test_images_and_categories_are_sorted_and_boxes_find_them(tmp_path):
    path = write_annotations(tmp_path, small_set())
    coco = read_annotations(path, drop_degenerate_boxes=False)
    assert coco.image_ids.tolist() == [5, 9, 70]
    assert coco.file_names == ["5.png", "9.png", "70.png"]
    assert coco.image_sizes_hw.tolist() == [[40, 60]] * 3
    assert coco.categories == [{"id": 7, "name": "apple"}, {"id": 44, "name": "zebra"}]
    assert coco.annotation_ids.tolist() == [1, 2, 3, 4]
    assert coco.image_indices.tolist() == [2, 0, 2, 2]
    assert coco.labels.tolist() == [1, 0, 0, 1]
    assert coco.is_crowd.tolist() == [False, False, False, True]
    assert coco.boxes_xywh_abs.tolist()[1] == [0.5, 1.5, 10, 10]
    assert coco.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_annotations_at_all_is_a_valid_file(tmp_path):
    coco = read_annotations(
        write_annotations(tmp_path, {**small_set(), "annotations": []}), drop_degenerate_boxes=False
    )
    assert coco.boxes_xywh_abs.shape == (0, 4)
    assert coco.labels.shape == (0,)


def test_iscrowd_and_area_may_be_absent_and_whole_floats_are_sizes(tmp_path):
    content = small_set()
    for record in content["annotations"]:
        del record["iscrowd"], record["area"]
    content["images"][0]["width"] = 60.0
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert not coco.is_crowd.any()
    assert coco.image_sizes_hw.tolist() == [[40, 60]] * 3


def changed(section: str, index: int, **keys: Any) -> dict[str, Any]:
    """The small set with keys of one record replaced, or removed where the value is ``...``."""
    content = small_set()
    for key, value in keys.items():
        if value is ...:
            del content[section][index][key]
        else:
            content[section][index][key] = value
    return content


def without(section: str) -> dict[str, Any]:
    return {key: value for key, value in small_set().items() if key != section}


REFUSED = {
    "cut short": ('{"images": [\n {"id": 1', r"is not valid JSON: .* at line 2, column \d+"),
    "not JSON": ("hello", "is not valid JSON: .* at line 1, column 1"),
    "empty file": ("", "is not valid JSON"),
    "a list": ([1, 2], "holds a list, not the object"),
    "no images key": (without("images"), "has no 'images'"),
    "no annotations key": (without("annotations"), "has no 'annotations'"),
    "no categories key": (without("categories"), "has no 'categories'"),
    "annotations not a list": ({**small_set(), "annotations": {}}, "'annotations' is a dict, not a list"),
    "no images": ({**small_set(), "images": [], "annotations": []}, "'images' is empty"),
    "no categories": ({**small_set(), "categories": [], "annotations": []}, "'categories' is empty"),
    "record not an object": ({**small_set(), "annotations": [7]}, r"annotations\[0\] is a int"),
    "image without id": (changed("images", 1, id=...), r"images\[1\] has no 'id'"),
    "image without file": (changed("images", 1, file_name=...), "image id 5 has no 'file_name'"),
    "image without width": (changed("images", 1, width=...), "image id 5 has no 'width'"),
    "annotation without bbox": (changed("annotations", 2, bbox=...), "annotation id 3 has no 'bbox'"),
    "annotation without image": (
        changed("annotations", 2, image_id=...),
        "annotation id 3 has no 'image_id'",
    ),
    "category without name": (changed("categories", 1, name=...), "category id 7 has no 'name'"),
    "name not a text": (changed("categories", 1, name=3), "category id 7 has name 3, a text"),
    "file name empty": (changed("images", 0, file_name=""), "image id 70 has file_name ''"),
    "id a text": (changed("images", 0, id="a"), "image id 'a' has id 'a', a whole number"),
    "id null": (changed("annotations", 0, id=None), r"annotations\[0\] has id None, a whole number"),
    "id too large": (changed("annotations", 0, id=10**30), "has id 10+, a whole number"),
    "duplicate image": (changed("images", 0, id=5), "image id 5 occurs 2 times"),
    "duplicate annotation": (changed("annotations", 0, id=4), "annotation id 4 occurs 2 times"),
    "duplicate category": (changed("categories", 0, id=7), "category id 7 occurs 2 times"),
    "unknown category": (
        changed("annotations", 1, category_id=8),
        "annotation id 2 has category_id 8, which is not among the categories",
    ),
    "category past the last": (
        changed("annotations", 1, category_id=99),
        "annotation id 2 has category_id 99",
    ),
    "unknown image": (
        changed("annotations", 1, image_id=6),
        "annotation id 2 has image_id 6, which is not among the images",
    ),
    "bbox of three": (changed("annotations", 1, bbox=[1, 2, 3]), r"id 2 has bbox \[1, 2, 3\], four finite"),
    "bbox null": (changed("annotations", 1, bbox=None), "id 2 has bbox None, four finite"),
    "bbox with null": (changed("annotations", 1, bbox=[1, 2, None, 4]), "annotation id 2 has bbox"),
    "bbox with text": (changed("annotations", 1, bbox=[1, 2, "3", 4]), "annotation id 2 has bbox"),
    "bbox with NaN": (changed("annotations", 1, bbox=[1, 2, math.nan, 4]), r"id 2 has bbox \[1, 2, nan, 4\]"),
    "bbox with infinity": (changed("annotations", 1, bbox=[1, 2, math.inf, 4]), "annotation id 2 has bbox"),
    "bbox beyond floats": (changed("annotations", 1, bbox=[1, 2, 10**400, 4]), "annotation id 2 has bbox"),
    "bbox nested": (changed("annotations", 1, bbox=[[1], 2, 3, 4]), "annotation id 2 has bbox"),
    "area NaN": (changed("annotations", 1, area=math.nan), "annotation id 2 has area nan"),
    "area negative": (changed("annotations", 1, area=-1), "annotation id 2 has area -1"),
    "zero width": (changed("annotations", 1, bbox=[1, 2, 0, 4]), "id 2 has a bbox of zero or negative size"),
    "negative height": (changed("annotations", 2, bbox=[1, 2, 3, -4]), "id 3 has a bbox of zero or negative"),
    "iscrowd 2": (changed("annotations", 1, iscrowd=2), "annotation id 2 has an iscrowd that is neither"),
    "image of no height": (changed("images", 2, height=0), "image id 9 has a height or width below 1"),
    "image of negative width": (changed("images", 2, width=-60), "image id 9 has a height or width below 1"),
    "fractional width": (changed("images", 2, width=60.5), "image id 9 has width 60.5, a whole number"),
    "width NaN": (changed("images", 2, width=math.nan), "image id 9 has width nan, a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_line_that_names_the_file_and_the_record(tmp_path, case):
    content, message = REFUSED[case]
    path = write_annotations(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_annotations(path, drop_degenerate_boxes=False)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


def test_a_missing_file_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.json cannot be read: No such file"):
        read_annotations(tmp_path / "nowhere.json", drop_degenerate_boxes=False)
    (tmp_path / "photo.json").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(DataError, match=r"photo.json is not valid JSON"):
        read_annotations(tmp_path / "photo.json", drop_degenerate_boxes=False)


def test_degenerate_boxes_are_dropped_with_one_warning(tmp_path):
    content = small_set()
    content["annotations"] += [box_record(10 + i, 5, 7, [1, 1, i - 3, 5]) for i in range(4)]  # widths -3 to 0
    content["annotations"] += [box_record(20 + i, 5, 7, [1, 1, 5, 0]) for i in range(4)]
    path = write_annotations(tmp_path, content)
    with pytest.warns(UserWarning, match=r"dropped 8 boxes .* ids 10, 11, 12, 13, 20 and 3 more") as record:
        coco = read_annotations(path, drop_degenerate_boxes=True)
    assert len(record) == 1
    assert str(path) in str(record[0].message)
    assert coco.annotation_ids.tolist() == [1, 2, 3, 4]
    assert len(coco.labels) == len(coco.image_indices) == len(coco.is_crowd) == len(coco.boxes_xywh_abs) == 4


def test_nan_stays_an_error_where_degenerate_boxes_are_dropped(tmp_path):
    path = write_annotations(tmp_path, changed("annotations", 1, bbox=[1, 2, math.nan, 4]))
    with pytest.raises(DataError, match="annotation id 2 has bbox"):
        read_annotations(path, drop_degenerate_boxes=True)
