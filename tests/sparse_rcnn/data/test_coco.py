"""The samples that come of a COCO data set, whatever the workers, the cache and the random state."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from sparse_rcnn.data.batching import collate
from sparse_rcnn.data.coco import CocoDetection, stable_seed
from sparse_rcnn.data.transforms import EvalTransform, RandomCropRecipe, TrainTransform
from sparse_rcnn.errors import DataError
from tests.support.coco_files import AS_IS, box_record, dataset, small_set
from tests.support.paths import shared

padded = partial(collate, size_divisor=32)


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


def test_cached_images_are_the_files_and_are_read_once(tmp_path):
    plain = dataset(tmp_path, small_set(), augmentation())
    cached = dataset(tmp_path, small_set(), augmentation(), cache_images=True)
    keys = [(epoch, i) for epoch in range(3) for i in (2, 0, 1)]
    expected = [plain[key] for key in keys]
    for key, sample in zip(keys, expected, strict=True):
        found = cached[key]
        if key[0] == 0:  # a second reading would fail
            (tmp_path / "images" / f"{found.image_id}.png").unlink()
        assert torch.equal(found.image, sample.image)
        assert torch.equal(found.boxes_xyxy_abs, sample.boxes_xyxy_abs)
        found.image.zero_()
    assert list((tmp_path / "images").iterdir()) == []


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
    with pytest.raises(DataError, match=r"json: 2 of 3 image files are missing in .*images, the first is sub1"):
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
    plain, parallel = (list(DataLoader(data, batch_sampler=keys, collate_fn=padded, num_workers=n)) for n in (0, 2))
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
        list(DataLoader(data, batch_size=1, collate_fn=padded, num_workers=1))
    assert "5.png (image id 5) cannot be read as an image" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_stable_seed():
    assert stable_seed(1, 2, 3) == 13_060_417_733_913_336_131  # pinned: a change would change every run
    values = [(), (0,), (1, 2), (1, 2, 0), (2, 1), (0, 0, 0), (0, 0)]
    assert len({stable_seed(*v) for v in values}) == len(values)


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
