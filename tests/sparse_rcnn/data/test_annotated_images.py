"""Sizes and frames of pictures, and the boxes that belong to them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparse_rcnn.data.findings import DataWarning
from sparse_rcnn.errors import DataError
from tests.support.coco_files import AS_IS, box_record, dataset, small_set, write_images

HEIGHT, WIDTH = 40, 60


def turned_set(tmp_path: Any, boxes: dict[int, list[float]], recorded: str = "stored") -> dict[str, Any]:
    """Photos of 40 x 60 stored pixels that EXIF turns to 60 x 40, with one box each."""
    content = small_set()
    content["annotations"] = [box_record(i, i, 7, box) for i, box in boxes.items()]
    folder = write_images(tmp_path, content)
    for record in content["images"]:
        record["file_name"] = f"{record['id']}.jpg"
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(folder / f"{record['id']}.png") as image:
            image.save(folder / record["file_name"], exif=exif)
        (folder / f"{record['id']}.png").unlink()
        if recorded == "upright":
            record |= {"height": WIDTH, "width": HEIGHT}
        elif recorded == "unknown":
            del record["height"]
    return content


def load(tmp_path: Any, content: dict[str, Any], **other: Any) -> Any:
    from sparse_rcnn.data.coco import CocoDetection
    from tests.support.coco_files import write_annotations

    path = write_annotations(tmp_path, content)
    return CocoDetection(path, tmp_path / "images", AS_IS, False, 0, **other)


UPRIGHT = {5: [5, 30, 20, 28], 9: [1, 1, 5, 5], 70: [2, 35, 30, 20]}  # those of 5 and 70 reach below row 40
STORED = {5: [35, 5, 20, 20], 9: [1, 1, 5, 5], 70: [40, 2, 20, 30]}


def test_boxes_on_upright_photos_with_the_stored_size_in_the_records(tmp_path):
    content = turned_set(tmp_path, UPRIGHT)
    with pytest.warns(DataWarning, match="3 pictures turned by EXIF, recorded with the size before the turn"):
        data = load(tmp_path, content)
    assert data.image_sizes_hw.tolist() == [[WIDTH, HEIGHT]] * 3
    assert data[0].image.shape[-2:] == (60, 40)
    assert data[0].original_size_hw == (WIDTH, HEIGHT)
    assert data.ground_truth(0)[0].tolist() == [[5, 30, 25, 58]]


@pytest.mark.parametrize(("boxes", "recorded"), [(STORED, "stored"), (UPRIGHT, "upright")])
def test_frames_that_agree_with_their_records_stay(tmp_path, recwarn, boxes, recorded):
    data = load(tmp_path, turned_set(tmp_path, boxes, recorded))
    size = (HEIGHT, WIDTH) if recorded == "stored" else (WIDTH, HEIGHT)
    assert data.image_sizes_hw.tolist() == [list(size)] * 3
    assert not [w for w in recwarn if w.category is DataWarning]


def test_photos_without_a_recorded_size_are_upright(tmp_path):
    with pytest.warns(DataWarning, match="3 images without a size: that of the file is taken"):
        data = load(tmp_path, turned_set(tmp_path, UPRIGHT, "unknown"))
    assert data.image_sizes_hw.tolist() == [[WIDTH, HEIGHT]] * 3


def test_where_both_frames_occur_each_picture_has_its_own(tmp_path):
    content = turned_set(tmp_path, {5: UPRIGHT[5], 9: [1, 1, 5, 5], 70: STORED[70]})
    with pytest.warns(DataWarning, match="1 picture turned by EXIF"):
        data = load(tmp_path, content)
    assert data.image_sizes_hw.tolist() == [[60, 40], [40, 60], [40, 60]]


def swapped_set(boxes: dict[int, list[float]]) -> dict[str, Any]:
    content = small_set()
    content["annotations"] = [box_record(i, i, 7, box) for i, box in boxes.items()]
    return content


def swap(content: dict[str, Any]) -> dict[str, Any]:
    for record in content["images"]:
        record["height"], record["width"] = record["width"], record["height"]
    return content


def test_records_with_width_and_height_swapped_and_boxes_that_fit_the_pictures(tmp_path):
    content = swapped_set(STORED)
    write_images(tmp_path, content)
    with pytest.warns(DataWarning, match="3 pictures recorded with width and height swapped, and annotated as they"):
        data = load(tmp_path, swap(content))
    assert data.image_sizes_hw.tolist() == [[HEIGHT, WIDTH]] * 3
    assert data[2].image.shape[-2:] == (HEIGHT, WIDTH)


def test_swapped_records_that_boxes_fit_are_left_to_the_check_of_pictures(tmp_path, recwarn):
    content = swapped_set(UPRIGHT)  # of the swapped frame as well
    write_images(tmp_path, content)
    assert load(tmp_path, swap(content)).image_sizes_hw.tolist() == [[WIDTH, HEIGHT]] * 3
    assert not [w for w in recwarn if w.category is DataWarning]


def test_records_without_an_id_are_why_no_image_is_left(tmp_path):
    content = small_set()
    write_images(tmp_path, content)
    for record in content["images"]:
        del record["id"]
    with pytest.raises(DataError, match=r"images\[0\] has no 'id' \(and 2 more like it\)"):
        load(tmp_path, content)


def test_one_file_of_several_images_deserves_a_word(tmp_path):
    content = small_set()
    content["images"].append({**content["images"][0], "id": 71})
    with pytest.warns(DataWarning, match=r"1 file of several images, each with boxes of its own: .* \(70.png\)$"):
        assert len(dataset(tmp_path, content)) == 4


@pytest.mark.parametrize(
    ("left", "advice"), [([5], "; restore them, or give skip_unreadable=True to"), ([], ".png (image id 5)")]
)
def test_missing_files_may_be_left_out_unless_all_are(tmp_path, left, advice):
    content = small_set()
    folder = write_images(tmp_path, content)
    for image_id in {5, 9, 70} - set(left):
        (folder / f"{image_id}.png").unlink()
    with pytest.raises(DataError, match=re.escape(advice)) as caught:
        load(tmp_path, content)
    assert ("skip_unreadable" in str(caught.value)) == bool(left)


def test_boxes_wholly_outside_are_left_out(tmp_path):
    content = small_set()
    content["annotations"] += [box_record(10, 5, 7, [60, 0, 5, 5]), box_record(11, 9, 7, [-9, 0, 9, 5])]
    content["annotations"] += [box_record(20 + i, 9, 7, [1, 1, 5, 5]) for i in range(20)]
    with pytest.warns(
        DataWarning, match=r"2 boxes wholly outside of the image left out of .* \(annotation ids: 10, 11\)"
    ):
        data = dataset(tmp_path, content)
    assert data.coco.annotation_ids.tolist() == [1, 2, 3, 4, *range(20, 40)]
    assert data.coco.num_objects.tolist() == [1, 20, 2]


def test_a_wrong_format_names_the_first_box(tmp_path):
    content = small_set()
    content["annotations"] = [box_record(i, 5, 7, [30, 20, 50 + i, 30 + i % 3]) for i in range(1, 9)]
    with pytest.raises(
        DataError, match=r"look like x1, y1, x2, y2.*the first: annotation id 1, \[30.0, 20.0, 51.0, 31.0"
    ):
        dataset(tmp_path, content)


def test_pictures_without_a_size_that_cannot_be_read(tmp_path):
    content = small_set()
    write_images(tmp_path, content)
    for record in content["images"]:
        record["width"] = None
    (tmp_path / "images" / "9.png").write_bytes(b"no picture")
    file = re.escape(str(tmp_path / "images" / "9.png"))
    with pytest.raises(DataError, match=rf"^{file} \(image id 9\) cannot be read .*skip_unreadable=True"):
        load(tmp_path, content)
    with pytest.warns(DataWarning, match=r"1 picture left out, .*\(9.png \(image id 9\)\)"):
        data = load(tmp_path, content, skip_unreadable=True)
    assert data.image_ids == [5, 70]
    assert data.coco.image_indices.tolist() == [1, 0, 1, 1]


def test_excluded_categories_are_no_labels(tmp_path):
    with pytest.warns(DataWarning, match="excluded as asked"):
        data = dataset(tmp_path, small_set(), excluded_categories=["apple"])
    assert data.class_names == ["zebra"]
    assert [data.ground_truth(i)[1].tolist() for i in range(3)] == [[], [], [0]]


def test_labels_of_another_data_set(tmp_path):
    data = dataset(tmp_path, small_set())
    other = [{"id": 1, "name": "zebra"}, {"id": 2, "name": "pear"}, {"id": 3, "name": "apple"}]
    mapped = data.in_label_space_of(other, "train.json")
    assert mapped.class_names == ["zebra", "pear", "apple"]
    assert mapped.category_ids == [44, 2, 7]
    assert [mapped.ground_truth(i)[1].tolist() for i in range(3)] == [[2], [], [0, 2]]
    assert [data.ground_truth(i)[1].tolist() for i in range(3)] == [[0], [], [1, 0]]


def test_a_category_without_boxes_that_the_labels_lack_is_left_out(tmp_path):
    """Roboflow's root in every split, while the training left it out."""
    content = small_set()
    content["categories"].insert(0, {"id": 0, "name": "fruit-and-animals"})
    data = dataset(tmp_path, content)
    labels = [{"id": 7, "name": "apple"}, {"id": 44, "name": "zebra"}]
    mapped = data.in_label_space_of(labels, "train.json")
    assert mapped.categories == labels
    assert [mapped.ground_truth(i)[1].tolist() for i in range(3)] == [[0], [], [1, 0]]
    content["annotations"] = []  # of a test set nothing can be said: its classes may be others
    with pytest.raises(DataError, match="'fruit-and-animals' of the first is not in the second"):
        dataset(tmp_path, content).in_label_space_of(labels, "train.json")


def test_an_unreadable_picture_gets_an_empty_stand_in(tmp_path):
    data = dataset(tmp_path, small_set(), skip_unreadable=True)
    (tmp_path / "images" / "5.png").write_bytes(b"broken since")
    with pytest.warns(
        DataWarning, match=r"5.png \(image id 5\) cannot be read .* an empty picture without objects takes"
    ):
        sample = data[0]
    assert sample.image.shape == (3, 40, 60)
    assert not np.any(sample.image.numpy())
    assert sample.boxes_xyxy_abs.shape == (0, 4)
