"""Reading COCO files: what is accepted, what is refused and in which words."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest

from sparse_rcnn.data import annotations
from sparse_rcnn.data.annotations import CocoAnnotations
from sparse_rcnn.data.findings import ERROR
from sparse_rcnn.errors import DataError
from tests.support.coco_files import box_record, image_record, small_set, write_annotations


def read_annotations(path: Any, drop_degenerate_boxes: bool, **other: Any) -> CocoAnnotations:
    coco = annotations.read_annotations(path, drop_degenerate_boxes, **other)
    coco.findings.warn()
    return coco.raise_errors()


def findings(coco: CocoAnnotations) -> dict[str, list[Any]]:
    return {f"{finding.level}: {finding.kind}": list(finding.items) for finding in coco.findings}


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


@pytest.mark.parametrize("value", [[], None, ...])
def test_no_annotations_at_all_is_a_file_with_nothing_to_score(tmp_path, value):
    content = {**small_set(), "annotations": value}
    if value is ...:
        del content["annotations"]
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.has_annotations == (value == [])
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
    "cut short": ('{"images": [\n {"id": 1', r"is not valid JSON: .* at line 2, column \d+; the file may be cut short"),
    "not JSON": ("hello", "is not valid JSON: .* at line 1, column 1"),
    "a comma too many": ('{"images": [],}', r"is not valid JSON: .* at line 1, column 15; correct the file there"),
    "two objects": ('{"images": []}{"images": []}', r"is not valid JSON: Extra data at line 1, column 15; correct"),
    "Python's text": ("{'images': [], 'annotations': []}", "looks like Python's text of an object: write it with json"),
    "a pointer of Git LFS": ("version https://git-lfs.github.com/spec/v1\nsize 1\n", "`git lfs pull`"),
    "YAML": ("train: ../train\nval: ../val\nnc: 1\nnames: ['a', 'b']\n", "the YAML file of a YOLO data set: export"),
    "captions": (
        {**small_set(), "annotations": [{"id": 1, "image_id": 5, "caption": "A cat"}]},
        "it has captions; give",
    ),
    "panoptic": (
        {**small_set(), "annotations": [{"image_id": 5, "segments_info": []}]},
        "is of panoptic segmentation;",
    ),
    "empty file": ("", "is not valid JSON: .*the file is empty"),
    "XML": ("<annotation><folder>a</folder></annotation>", r"looks like XML \(Pascal VOC or CVAT\): export"),
    "YOLO": ("0 0.5 0.5 0.1 0.1\n1 0.5 0.25 0.1 0.1\n", "looks like YOLO's text format: export"),
    "CSV": ("filename,width,height,class\na.jpg,3,4,cat\nb.jpg,3,4,cat\n", "looks like CSV: export"),
    "JSON lines": ('{"a": 1}\n{"a": 2}\n{"a": 3}\n', "looks like JSON lines"),
    "a list": ([1, 2], "holds a list, not the object"),
    "results": (
        [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}],
        "looks like detections",
    ),
    "Label Studio": (
        [{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}],
        "looks like Label Studio's",
    ),
    "CreateML": ([{"image": "a.jpg", "annotations": []}], "one record an image"),
    "labelme": ({"shapes": [], "imagePath": "a.jpg", "imageData": None}, "looks like labelme's JSON of one picture"),
    "VIA": ({"a.jpg123": {"filename": "a.jpg", "size": 123, "regions": []}}, "looks like VIA's own JSON: export"),
    "no images key": (without("images"), "has no 'images'"),
    "no categories key": (without("categories"), "has no 'categories'"),
    "annotations not a list": ({**small_set(), "annotations": {"a": 1}}, "'annotations' is a dict, not a list"),
    "record not an object": ({**small_set(), "annotations": [7]}, r"annotations\[0\] is a int"),
    "image without id": (changed("images", 1, id=...), r"images\[1\] has no 'id'"),
    "annotation without image": (changed("annotations", 2, image_id=...), "annotation id 3 has no 'image_id'"),
    "category without name": (changed("categories", 1, name=...), "category id 7 has no 'name'"),
    "name not a text": (changed("categories", 1, name=[3]), r"category id 7 has name \[3\], a text"),
    "id a list": (changed("images", 0, id=["a"]), r"image id \['a'\] has id \['a'\], a whole number or a text"),
    "id a fraction": (changed("images", 0, id=1.5), r"image id 1.5 has id 1.5, a whole number or a text"),
    "id true": (changed("images", 0, id=True), "image id True has id True, a whole number or a text"),
    "different images of one id": (changed("images", 0, id=5), "image id 5 occurs 2 times with different content"),
    "different categories of one id": (changed("categories", 0, id=7), "category id 7 occurs 2 times with different"),
    "unknown category": (
        changed("annotations", 1, category_id=8),
        "annotation id 2 has category_id 8, which is not among the categories",
    ),
    "category past the last": (changed("annotations", 1, category_id=99), "annotation id 2 has category_id 99"),
    "bbox of three": (changed("annotations", 1, bbox=[1, 2, 3]), r"id 2 has bbox \[1, 2, 3\], four numbers"),
    "bbox null": (changed("annotations", 1, bbox=None), "id 2 has no bbox and no polygon; correct it or set drop_deg"),
    "bbox with null": (changed("annotations", 1, bbox=[1, 2, None, 4]), "id 2 has a bbox that is not finite"),
    "bbox with a word": (changed("annotations", 1, bbox=[1, 2, "three", 4]), "annotation id 2 has bbox"),
    "bbox with NaN": (
        changed("annotations", 1, bbox=[1, 2, math.nan, 4]),
        "a bbox that is not finite .*nan",
    ),
    "bbox with infinity": (changed("annotations", 1, bbox=[1, 2, math.inf, 4]), "id 2 has a bbox that is not finite"),
    "bbox beyond floats": (changed("annotations", 1, bbox=[1, 2, 10**400, 4]), "id 2 has a bbox that is not finite"),
    "bbox nested": (changed("annotations", 1, bbox=[[1], 2, 3, 4]), "annotation id 2 has bbox"),
    "zero width": (changed("annotations", 1, bbox=[1, 2, 0, 4]), "id 2 has a bbox of zero or negative size"),
    "negative height": (changed("annotations", 2, bbox=[1, 2, 3, -4]), "id 3 has a bbox of zero or negative"),
    "iscrowd 2": (changed("annotations", 1, iscrowd=2), "annotation id 2 has an iscrowd that is neither"),
    "fractional width": (changed("images", 2, width=60.5), "image id 9 has width 60.5, a whole number"),
    "width a word": (changed("images", 2, width="wide"), "image id 9 has width 'wide', a whole number"),
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


def test_text_in_another_encoding_is_refused_with_the_way_out(tmp_path):
    text = json.dumps({**small_set(), "info": "é"}, ensure_ascii=False)
    (tmp_path / "old.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"old.json is not valid JSON: byte \d+ is not UTF-8 text; save it as UTF-8$"):
        read_annotations(tmp_path / "old.json", drop_degenerate_boxes=False)
    (tmp_path / "other.json").write_bytes(text.encode("utf-16"))
    assert read_annotations(tmp_path / "other.json", drop_degenerate_boxes=False).annotation_ids.tolist() == [
        1,
        2,
        3,
        4,
    ]


def test_records_by_their_ids(tmp_path):
    content = small_set()
    for section in ("annotations", "categories"):
        content[section] = {str(record.pop("id")): record for record in content[section]}
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert [category["id"] for category in coco.categories] == [7, 44]
    assert coco.labels.tolist() == [1, 0, 0, 1]


def test_image_records_that_differ_in_nothing_that_is_read_are_one(tmp_path):
    content = small_set()
    content["images"].append({**content["images"][0], "date_captured": "later", "license": 3})
    with pytest.warns(UserWarning, match=r"1 image record repeated, counted once \(ids: 70\)"):
        coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.image_ids.tolist() == [5, 9, 70]


def test_a_word_on_categories_of_one_name_and_on_boxes_that_occur_twice(tmp_path):
    content = small_set()
    content["categories"][0]["name"] = "apple"
    content["annotations"] += [{**content["annotations"][i], "id": 10 + i} for i in (1, 3)]  # the last is a crowd
    coco = annotations.read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert findings(coco) == {"note: categories of one name": [7, 44], "note: boxes repeated": [11]}
    assert len(coco.labels) == 6


def test_degenerate_boxes_are_dropped_with_one_warning(tmp_path):
    content = small_set()
    content["annotations"] += [box_record(10 + i, 5, 7, [1, 1, i - 3, 5]) for i in range(4)]  # widths -3 to 0
    content["annotations"] += [box_record(20 + i, 5, 7, [1, 1, 5, 0]) for i in range(4)]
    path = write_annotations(tmp_path, content)
    with pytest.warns(UserWarning, match=r"8 boxes of zero or neg.* ids: 10, 11, 12, 13, 20 and 3 more\)") as record:
        coco = read_annotations(path, drop_degenerate_boxes=True)
    assert len(record) == 1
    assert str(path) in str(record[0].message)
    assert coco.annotation_ids.tolist() == [1, 2, 3, 4]
    assert len(coco.labels) == len(coco.image_indices) == len(coco.is_crowd) == len(coco.boxes_xywh_abs) == 4


@pytest.mark.parametrize(
    "bbox", [[1, 2, math.nan, 4], [1, 2, math.inf, 4], [1, 2, 10**400, 4], [1, 2, None, 4], None, []]
)
def test_boxes_without_numbers_are_left_out_with_the_degenerate_ones(tmp_path, bbox):
    path = write_annotations(tmp_path, changed("annotations", 1, bbox=bbox))
    with pytest.warns(UserWarning, match=r"left out \(annotation ids: 2\)$"):
        coco = read_annotations(path, drop_degenerate_boxes=True)
    assert coco.annotation_ids.tolist() == [1, 3, 4]


def test_all_faults_of_a_file_are_found_at_once(tmp_path):
    content = changed("annotations", 1, bbox=[1, 2, 3])
    content["annotations"][0]["category_id"] = 8
    content["annotations"] += [box_record(10 + i, 5, 7, [1, 2, 3, -1]) for i in range(3)]
    content["categories"][0]["name"] = None
    coco = annotations.read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    errors = [(finding.kind, len(finding.items)) for finding in coco.findings.of_level(ERROR)]
    assert errors == [
        ("no name", 1), ("annotations of unknown categories", 1), ("boxes malformed", 1), ("boxes without area", 3)
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"category id 44 has no 'name' \(and 3 other kinds of fault\)$"):
        coco.raise_errors()


# One set in many spellings that mean the same.
def spelled(section: str, key: str, spelling: Any) -> dict[str, Any]:
    content = small_set()
    for record in content[section]:
        record[key] = spelling(record[key])
    return content


def spelled_flags() -> dict[str, Any]:
    content = small_set()
    for record in content["annotations"]:
        record |= {"ignore": math.nan, "segmentation": math.nan, "iscrowd": record["iscrowd"] or math.nan}
    return content


SPELLINGS = {
    "image ids as floats": spelled("images", "id", float),
    "image ids as text": spelled("images", "id", str),
    "image ids as text of floats": spelled("images", "id", lambda i: f"{i}.0"),
    "flags of pandas": spelled_flags(),
    "references as text": spelled("annotations", "image_id", str),
    "references as floats": spelled("annotations", "category_id", float),
    "category ids as text with spaces": spelled("categories", "id", lambda i: f" {i}"),
    "boxes as text": spelled("annotations", "bbox", str),
    "boxes as numpy's text": spelled(
        "annotations", "bbox", lambda box: f"[{', '.join(f'np.float64({side})' for side in box)}]"
    ),
    "boxes as the text of an array": spelled("annotations", "bbox", lambda box: f"array({box})"),
    "boxes without brackets": spelled("annotations", "bbox", lambda box: ", ".join(map(str, box))),
    "boxes of texts": spelled("annotations", "bbox", lambda box: list(map(str, box))),
    "boxes as objects": spelled(
        "annotations", "bbox", lambda box: dict(zip(("x", "y", "width", "height"), box, strict=True))
    ),
    "sizes as text": spelled("images", "width", str),
    "crowds as truth": spelled("annotations", "iscrowd", bool),
    "crowds as text": spelled("annotations", "iscrowd", str),
    "annotation ids all 0": spelled("annotations", "id", lambda _: 0),
    "annotation ids null": spelled("annotations", "id", lambda _: None),
    "category records once an image": {**small_set(), "categories": small_set()["categories"] * 3},
    "image records twice": {**small_set(), "images": small_set()["images"] * 2},
    "annotations of images that are not listed": {
        **small_set(), "annotations": [*small_set()["annotations"], box_record(9, 1234, 7, [1, 1, 2, 2])]
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::sparse_rcnn.data.findings.DataWarning")
@pytest.mark.parametrize("case", SPELLINGS)
def test_spellings_of_other_tools_are_the_same_data(tmp_path, case):
    expected = read_annotations(write_annotations(tmp_path, small_set()), drop_degenerate_boxes=False)
    coco = read_annotations(write_annotations(tmp_path, SPELLINGS[case]), drop_degenerate_boxes=False)
    for name in ("image_ids", "image_sizes_hw", "image_indices", "labels", "boxes_xywh_abs", "areas", "is_crowd"):
        assert getattr(coco, name).tolist() == getattr(expected, name).tolist(), name
    assert coco.categories == expected.categories
    assert coco.file_names == expected.file_names


@pytest.mark.parametrize("bom", [b"\xef\xbb\xbf", b"\xff\xfe"], ids=["UTF-8", "UTF-16"])
def test_byte_order_marks(tmp_path, bom):
    path = write_annotations(tmp_path, small_set())
    path.write_bytes(bom + path.read_text().encode("utf-8" if len(bom) == 3 else "utf-16-le"))
    assert read_annotations(path, drop_degenerate_boxes=False).image_ids.tolist() == [5, 9, 70]


@pytest.mark.filterwarnings("ignore::sparse_rcnn.data.findings.DataWarning")
def test_ids_of_any_text_are_numbered_in_their_order_and_kept(tmp_path):
    names = {5: "0001_02999", 9: "0001_0300", 70: "b"}
    content = small_set()
    for record in content["images"]:
        record["id"] = names[record["id"]]
    for record in content["annotations"]:
        record["image_id"] = names[record["image_id"]]
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.image_ids.tolist() == [1, 2, 3]
    assert [coco.ids.original(i) for i in (1, 2, 3)] == ["0001_02999", "0001_0300", "b"]
    assert coco.image_indices.tolist() == [2, 0, 2, 2]
    numbers, known = coco.ids.find(["b", "0001_02999", "000102999", 1])
    assert known.tolist() == [True, True, False, False]
    assert numbers[:2].tolist() == [3, 1]


def test_leading_zeros_are_kept_where_they_tell_ids_apart(tmp_path):
    content = {
        "images": [image_record(1, id="007"), image_record(2, id="7"), image_record(3, id="8")],
        "annotations": [box_record(1, "7", 1, [1, 2, 3, 4]), box_record(2, "007", 1, [1, 2, 3, 4])],
        "categories": [{"id": 1, "name": "a"}],
    }
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    names = [coco.file_names[i] for i in coco.image_indices]
    assert names == ["2.png", "1.png"]
    padded = read_annotations(
        write_annotations(tmp_path, {**content, "images": [image_record(1, id="007")], "annotations": []}), False
    )
    assert padded.image_ids.tolist() == [7]
    assert padded.ids.original(7) == "007"


def test_boxes_of_polygons_and_masks(tmp_path):
    content = small_set()
    first, second, third, _ = content["annotations"]
    del first["bbox"]
    first["segmentation"] = [[10, 5, 30, 5, 30, 35], [12, 4, 13, 4, 13, 5]]
    second |= {"bbox": [], "segmentation": [1, 2, 11, 2, 11, 12]}
    # Column by column: rows 1 and 2 of column 1 of a mask of 4 x 3.
    third |= {"bbox": None, "segmentation": {"size": [4, 3], "counts": [5, 2, 5]}}
    with pytest.warns(UserWarning, match=r"3 boxes taken from the segmentation \(annotation ids: 1, 2, 3\)"):
        coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.boxes_xywh_abs[:3].tolist() == [[10, 4, 20, 31], [1, 2, 10, 10], [1, 1, 1, 2]]


def test_areas_that_cannot_be_used_are_those_of_the_boxes(tmp_path):
    content = small_set()
    for record, area in zip(content["annotations"], [None, -1, math.inf, "12"], strict=True):
        record["area"] = area
    with pytest.warns(UserWarning, match=r"2 areas that cannot be used, the first -1: .* ids: 2, 3\)$"):
        coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.areas.tolist() == [600, 100, 900, 12]


def test_boxes_to_ignore_are_crowds(tmp_path):
    content = small_set()
    content["annotations"][0]["ignore"] = 1
    content["annotations"][1]["ignore"] = 0
    with pytest.warns(UserWarning, match="1 box with the flag 'ignore'"):
        coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.is_crowd.tolist() == [True, False, False, True]


def test_sizes_that_are_not_there_are_unknown(tmp_path):
    content = small_set()
    del content["images"][0]["width"]
    content["images"][1] |= {"width": -1, "height": -1}
    content["images"][2] |= {"width": math.nan}
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.image_sizes_hw.tolist() == [[0, 0]] * 3


def test_excluded_categories_go_with_their_boxes(tmp_path):
    path = write_annotations(tmp_path, small_set())
    with pytest.warns(UserWarning, match=r"1 category excluded as asked, with 2 boxes \(apple\)"):
        coco = read_annotations(path, False, excluded_categories=["apple"])
    assert coco.categories == [{"id": 44, "name": "zebra"}]
    assert coco.labels.tolist() == [0, 0]
    assert coco.annotation_ids.tolist() == [1, 4]
    with pytest.warns(UserWarning, match="excluded as asked"):
        assert read_annotations(path, False, excluded_categories=[44]).categories == [{"id": 7, "name": "apple"}]


def test_a_root_category_is_pointed_out(tmp_path):
    content = small_set()
    content["categories"] = [
        {"id": 0, "name": "fruit", "supercategory": "none"},
        {"id": 7, "name": "apple", "supercategory": "fruit"},
        {"id": 44, "name": "zebra", "supercategory": "fruit"},
    ]
    path = write_annotations(tmp_path, content)
    with pytest.warns(UserWarning, match=r"category 'fruit' \(id 0\) has no boxes .* excluded_categories=\[0\] leaves"):
        assert len(read_annotations(path, False).categories) == 3


@pytest.mark.parametrize("key", ["coco_url", "url", "path"])
def test_a_url_in_place_of_a_file_name(tmp_path, key):
    content = small_set()
    del content["images"][0]["file_name"]
    content["images"][0][key] = "http://example.org/val2017/70.png"
    coco = read_annotations(write_annotations(tmp_path, content), drop_degenerate_boxes=False)
    assert coco.file_names == ["5.png", "9.png", "http://example.org/val2017/70.png"]


def test_an_excluded_category_that_is_not_there_is_kept_in_mind(tmp_path):
    coco = read_annotations(write_annotations(tmp_path, small_set()), False, excluded_categories=["pear", 7])
    assert coco.unknown_exclusions == ("pear",)
    assert coco.class_names == ["zebra"]
