"""Reading COCO files: what is accepted, what is refused and in which words, and the samples that come out."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from sparse_rcnn.data import coco as coco_module
from sparse_rcnn.data.annotations import read_annotations
from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import CocoDetection, stable_seed
from sparse_rcnn.data.image import read_image
from sparse_rcnn.data.transforms import EvalTransform, RandomCropRecipe, TrainTransform
from sparse_rcnn.errors import DataError
from tests.support.paths import shared

AS_IS = EvalTransform(40, None)  # leaves the 40 x 60 images of these tests as they are


def image_record(image_id: int, **other: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "height": 40, "width": 60, **other}


def box_record(annotation_id: int, image_id: int, category_id: int, bbox: Any, **other: Any) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": 1.0,
        "iscrowd": 0,
        **other,
    }


def small_set() -> dict[str, Any]:
    """Three images out of order, gaps in the category ids, a crowd box, an image without boxes."""
    return {
        "images": [image_record(70), image_record(5), image_record(9)],
        "annotations": [
            box_record(1, 70, 44, [10, 5, 20, 30]),
            box_record(2, 5, 7, [0.5, 1.5, 10, 10]),
            box_record(3, 70, 7, [50, 30, 30, 30]),
            box_record(4, 70, 44, [0, 0, 60, 40], iscrowd=1),
        ],
        "categories": [{"id": 44, "name": "zebra"}, {"id": 7, "name": "apple"}],
    }


def write(folder: Path, content: Any) -> Path:
    path = folder / "instances.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_images(folder: Path, content: dict[str, Any]) -> Path:
    """Random pixels for every image record, under ``folder``/images."""
    for record in content["images"]:
        pixels = np.random.default_rng(record["id"]).integers(0, 256, (record["height"], record["width"], 3), np.uint8)
        path = folder / "images" / record["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder / "images"


def dataset(folder: Path, content: dict[str, Any], transforms: Any = AS_IS, **other: Any) -> CocoDetection:
    images = write_images(folder, content)
    arguments = {"drop_degenerate_boxes": False, "seed": 0, **other}
    return CocoDetection(write(folder, content), images, transforms, **arguments)


# --- reading ---


def test_images_and_categories_are_sorted_and_boxes_find_them(tmp_path):
    path = write(tmp_path, small_set())
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
    coco = read_annotations(write(tmp_path, {**small_set(), "annotations": []}), drop_degenerate_boxes=False)
    assert coco.boxes_xywh_abs.shape == (0, 4)
    assert coco.labels.shape == (0,)


def test_iscrowd_and_area_may_be_absent_and_whole_floats_are_sizes(tmp_path):
    content = small_set()
    for record in content["annotations"]:
        del record["iscrowd"], record["area"]
    content["images"][0]["width"] = 60.0
    coco = read_annotations(write(tmp_path, content), drop_degenerate_boxes=False)
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
    path = write(tmp_path, content)
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
    path = write(tmp_path, content)
    with pytest.warns(UserWarning, match=r"dropped 8 boxes .* ids 10, 11, 12, 13, 20 and 3 more") as record:
        coco = read_annotations(path, drop_degenerate_boxes=True)
    assert len(record) == 1
    assert str(path) in str(record[0].message)
    assert coco.annotation_ids.tolist() == [1, 2, 3, 4]
    assert len(coco.labels) == len(coco.image_indices) == len(coco.is_crowd) == len(coco.boxes_xywh_abs) == 4


def test_nan_stays_an_error_where_degenerate_boxes_are_dropped(tmp_path):
    path = write(tmp_path, changed("annotations", 1, bbox=[1, 2, math.nan, 4]))
    with pytest.raises(DataError, match="annotation id 2 has bbox"):
        read_annotations(path, drop_degenerate_boxes=True)


# --- samples ---


def test_samples_of_the_small_set(tmp_path):
    data = dataset(tmp_path, small_set())
    assert len(data) == 3
    assert data.image_ids == [5, 9, 70]
    assert data.class_names == ["apple", "zebra"]
    assert data.category_ids == [7, 44]
    assert data.num_classes == 2
    first, empty, last = data[0], data[1], data[2]
    assert first.image_id == 5
    assert first.original_size_hw == (40, 60)
    assert isinstance(first.image, tv_tensors.Image)
    assert first.image.shape == (3, 40, 60)
    assert first.image.dtype == torch.uint8
    assert first.boxes_xyxy_abs.tolist() == [[0.5, 1.5, 10.5, 11.5]]
    assert first.labels.tolist() == [0]
    assert type(first.boxes_xyxy_abs) is torch.Tensor
    assert first.boxes_xyxy_abs.dtype == torch.float32
    assert empty.boxes_xyxy_abs.shape == (0, 4)
    assert empty.labels.dtype == torch.int64
    # The crowd box is left out, the one over the border is clipped.
    assert last.boxes_xyxy_abs.tolist() == [[10, 5, 30, 35], [50, 30, 60, 40]]
    assert last.labels.tolist() == [
        1,
        0,
    ]
    assert [sample.image_id for sample in data] == [5, 9, 70]  # iteration ends
    with pytest.raises(IndexError):
        data[-1]


def test_boxes_keep_the_order_of_the_file(tmp_path):
    content = small_set()
    content["annotations"] = [box_record(i + 1, 5 if i % 3 else 9, 7, [i / 4, 0, 5, 5]) for i in range(120)]
    data = dataset(tmp_path, content)
    assert data[0].boxes_xyxy_abs[:, 0].tolist() == [i / 4 for i in range(120) if i % 3]
    assert data[1].boxes_xyxy_abs[:, 0].tolist() == [i / 4 for i in range(120) if not i % 3]


def test_changing_a_sample_leaves_the_data_set_alone(tmp_path):
    data = dataset(tmp_path, small_set(), transforms=lambda *sample: sample)
    data[0].boxes_xyxy_abs.zero_()
    data[0].labels.fill_(9)
    assert data[0].boxes_xyxy_abs.tolist() == [[0.5, 1.5, 10.5, 11.5]]
    assert data[0].labels.tolist() == [0]


def test_cached_images_are_the_files_and_are_read_once(tmp_path, monkeypatch):
    plain = dataset(tmp_path, small_set(), augmentation())
    cached = dataset(tmp_path, small_set(), augmentation(), cache_images=True)
    keys = [(epoch, i) for epoch in range(3) for i in (2, 0, 1)]
    expected = [plain[key] for key in keys]
    reads = []
    read = coco_module.read_image
    monkeypatch.setattr(coco_module, "read_image", lambda *args: reads.append(args) or read(*args))
    for key, sample in zip(keys, expected, strict=True):
        found = cached[key]
        assert torch.equal(found.image, sample.image)
        assert torch.equal(found.boxes_xyxy_abs, sample.boxes_xyxy_abs)
        found.image.zero_()
    assert len(reads) == 3


def test_one_class_and_max_images(tmp_path):
    content = small_set()
    content["categories"] = [{"id": 7, "name": "apple"}]
    content["annotations"] = [box_record(1, 70, 7, [1, 2, 3, 4]), box_record(2, 9, 7, [5, 6, 7, 8])]
    assert dataset(tmp_path, content).num_classes == 1
    (tmp_path / "images" / "70.png").unlink()
    data = CocoDetection(tmp_path / "instances.json", tmp_path / "images", AS_IS, False, 0, max_images=2)
    assert data.image_ids == [5, 9]
    assert data.image_sizes_hw.shape == (2, 2)
    assert data[1].boxes_xyxy_abs.tolist() == [[5, 6, 12, 14]]
    with pytest.raises(ValueError, match="max_images must be at least 1 or None, got 0"):
        CocoDetection(tmp_path / "instances.json", tmp_path / "images", AS_IS, False, 0, max_images=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        CocoDetection(tmp_path / "instances.json", tmp_path / "images", AS_IS, False, -1)


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    content = small_set()
    for record in content["images"]:
        record["file_name"] = f"sub{record['id'] % 2}/{record['file_name']}"
    data = dataset(tmp_path, content)
    assert data[0].image_id == 5
    (tmp_path / "images" / "sub1" / "5.png").unlink()
    (tmp_path / "images" / "sub0" / "70.png").unlink()
    with pytest.raises(DataError, match=r"^2 of 3 image files are missing in .*images, the first is sub1/5.png"):
        CocoDetection(data.annotations_path, data.images_path, AS_IS, False, 0)
    with pytest.raises(DataError, match=r"image folder .*nowhere does not exist"):
        CocoDetection(data.annotations_path, tmp_path / "nowhere", AS_IS, False, 0)


def augmentation() -> TrainTransform:
    return TrainTransform([32, 40, 48, 56], 100, 0.5, RandomCropRecipe(0.5, [40, 50], 20, 40))


def equal(a: Any, b: Any) -> bool:
    return a.image.shape == b.image.shape and bool(
        torch.equal(a.image, b.image) and torch.equal(a.boxes_xyxy_abs, b.boxes_xyxy_abs)
    )


def test_augmentation_depends_on_seed_epoch_and_index_alone(tmp_path):
    data = dataset(tmp_path, small_set(), augmentation(), seed=4)
    other = dataset(tmp_path, small_set(), augmentation(), seed=5)
    forward = {(e, i): data[e, i] for e in range(4) for i in range(3)}
    torch.manual_seed(99)
    assert all(equal(data[key], forward[key]) for key in reversed(forward))  # whatever came before
    assert equal(data[2], forward[0, 2])  # an index alone is epoch 0
    assert len({(s.image.shape, int(s.image.sum())) for (e, i), s in forward.items() if i == 2}) > 1
    assert any(not equal(other[key], forward[key]) for key in forward)


def test_reading_leaves_every_global_generator_alone(tmp_path, monkeypatch):
    data = dataset(tmp_path, small_set(), augmentation())
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were reseeded"))
    torch.default_generator.manual_seed(1)
    before = torch.get_rng_state()
    assert data[0].image_id == 5
    assert torch.equal(torch.get_rng_state(), before)


def test_the_number_of_workers_changes_nothing(tmp_path):
    data = dataset(tmp_path, small_set(), augmentation())
    keys = [[(epoch, i) for i in (2, 0, 1)] for epoch in range(4)]
    plain, parallel = (list(DataLoader(data, batch_sampler=keys, collate_fn=collate, num_workers=n)) for n in (0, 2))
    assert len(plain) == len(parallel) == 4
    for a, b in zip(plain, parallel, strict=True):
        assert a.image_ids == b.image_ids == (70, 5, 9)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.image_sizes_hw, b.image_sizes_hw)
        assert torch.equal(a.targets.boxes_xyxy_abs, b.targets.boxes_xyxy_abs)
        assert torch.equal(a.targets.labels, b.targets.labels)


def test_an_error_in_a_worker_is_one_line(tmp_path):
    data = dataset(tmp_path, small_set())
    (tmp_path / "images" / "5.png").write_bytes(b"junk")
    with pytest.raises(DataError) as caught:
        list(DataLoader(data, batch_size=1, collate_fn=collate, num_workers=1))
    assert "5.png (image id 5) cannot be read as an image" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stable_seed():
    assert stable_seed(1, 2, 3) == 13_060_417_733_913_336_131  # pinned: a change would change every run
    values = [(), (0,), (1, 2), (1, 2, 0), (2, 1), (0, 0, 0), (0, 0)]
    assert len({stable_seed(*v) for v in values}) == len(values)


# --- image files ---


def quadrants(height: int = 40, width: int = 60) -> np.ndarray:
    """Red, green / blue, white: every rotation and mirroring looks different."""
    pixels = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    pixels[:h, :w], pixels[:h, w:], pixels[h:, :w], pixels[h:, w:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    )
    return pixels


# The stored picture that a viewer shows upright, per EXIF orientation (the table of the EXIF standard).
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def save_with_orientation(path: Path, orientation: int, upright: np.ndarray) -> np.ndarray:
    stored = np.ascontiguousarray(STORED[orientation](upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, quality=100, subsampling=0, exif=exif)
    return stored


def close(image: torch.Tensor, pixels: np.ndarray) -> bool:
    expected = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return image.shape == expected.shape and bool((image.float() - expected.float()).abs().mean() < 3)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(tmp_path, orientation):
    path = tmp_path / "photo.jpg"
    save_with_orientation(path, orientation, quadrants())
    assert close(read_image(path), quadrants())
    assert close(read_image(path, 7, (40, 60)), quadrants())


def test_a_record_of_the_stored_size_keeps_the_stored_picture(tmp_path):
    path = tmp_path / "photo.jpg"
    stored = save_with_orientation(path, 6, quadrants())
    assert stored.shape[:2] == (60, 40)
    assert close(read_image(path, 7, (60, 40)), stored)
    with pytest.raises(DataError, match=r"photo.jpg \(image id 7\) is 40 x 60 pixels .* its record says 41 x 60"):
        read_image(path, 7, (41, 60))


def test_broken_exif_does_not_cost_the_image(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(quadrants()).save(path, quality=100, subsampling=0, exif=b"Exif\x00\x00garbage")
    assert close(read_image(path, 7, (40, 60)), quadrants())


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    pixels = Image.fromarray(quadrants())
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    converted = pixels.quantize(8) if mode == "P" else pixels.convert(mode)
    converted.save(path, **({"quality": 100, "subsampling": 0} if mode == "CMYK" else {}))
    with Image.open(path) as file:
        assert file.mode == mode
    image = read_image(path, 1, (40, 60))
    assert image.shape == (3, 40, 60)
    assert image.dtype == torch.uint8
    corners = image[:, [0, 0, 39, 39], [0, 59, 0, 59]].tolist()
    if mode in ("L", "LA"):
        assert corners == [[76, 150, 29, 255]] * 3  # 0.299 R + 0.587 G + 0.114 B
    elif mode == "1":
        assert set(image.flatten().tolist()) == {0, 255}
        assert torch.equal(image[0], image[1])
        assert image[0, 20:, 30:].float().mean() == 255
    else:
        assert close(image, quadrants())


def test_a_palette_with_transparency_is_read_without_a_warning(tmp_path, recwarn):
    path = tmp_path / "photo.png"
    Image.fromarray(quadrants()).quantize(4).save(path, transparency=b"\x10\x20\x30")
    assert close(read_image(path), quadrants())
    assert len(recwarn) == 0


def test_sixteen_bit_greyscale_keeps_its_contrast(tmp_path):
    path = tmp_path / "photo.png"
    ramp = np.linspace(0, 65535, 60).astype(np.uint16)[None].repeat(40, 0)
    Image.fromarray(ramp).save(path)
    image = read_image(path, 1, (40, 60))
    assert image[2, 0].tolist() == (ramp[0] >> 8).tolist()


def test_files_that_are_no_whole_image(tmp_path):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    noise.save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    noise.save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "cut.png", "text.jpg", "empty.jpg", "folder.jpg"):
        with pytest.raises(DataError, match=rf"{name} \(image id 3\) cannot be read as an image: .+") as caught:
            read_image(tmp_path / name, 3, (40, 60))
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"gone.jpg \(image id 3\) does not exist"):
        read_image(tmp_path / "gone.jpg", 3, (40, 60))
    with pytest.raises(DataError, match=r"text.jpg cannot be read"):
        read_image(tmp_path / "text.jpg")


# --- real photos ---


@pytest.mark.parametrize(
    ("name", "num_images", "num_boxes", "num_classes"),
    [("coco_cc", 158, 1372, 80), ("bccd", 364, None, 3)],
)
def test_real_data(name, num_images, num_boxes, num_classes):
    folder = shared(f"data/{name}")
    data = CocoDetection(
        folder / "instances_all.json",
        folder / "images",
        EvalTransform(64, 120),
        drop_degenerate_boxes=True,
        seed=0,
    )
    assert len(data) == num_images
    assert data.num_classes == num_classes
    samples = [data[i] for i in range(0, len(data), 1 if name == "coco_cc" else 10)]
    assert all(min(s.image.shape[1:]) == 64 or max(s.image.shape[1:]) == 120 for s in samples)
    assert all((s.boxes_xyxy_abs[:, 2:] > s.boxes_xyxy_abs[:, :2]).all() for s in samples)
    assert all(((s.labels >= 0) & (s.labels < num_classes)).all() for s in samples)
    if num_boxes is not None:  # 1389 less 17 crowd boxes
        assert sum(len(s.labels) for s in samples) == num_boxes
        content = json.loads((folder / "instances_all.json").read_text())
        with_boxes = {a["image_id"] for a in content["annotations"]}
        assert any(len(s.labels) == 0 and s.image_id not in with_boxes for s in samples)
        names = {c["id"]: c["name"] for c in content["categories"]}
        person = [a for a in content["annotations"] if not a["iscrowd"] and names[a["category_id"]] == "person"]
        label = data.class_names.index("person")
        assert sum(int((s.labels == label).sum()) for s in samples) == len(person)
