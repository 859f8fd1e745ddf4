"""Matching and weighted AP: pycocotools' numbers on random sets, copies of images, permutations, edge cases."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.coco_columns import FoundBoxes, GroundTruth, columns_to_detections
from analysis.statistics.matching import AREAS, box_ious, match
from tests.support.coco_numbers import mean_of, pycocotools_precision, random_coco
from tests.support.truths import truth_of


def columns(coco: dict[str, Any], records: list[dict[str, Any]]) -> tuple[GroundTruth, FoundBoxes]:
    truth = truth_of(coco)
    values = [[record[key] for record in records] for key in ("image_id", "category_id", "bbox", "score")]
    return truth, columns_to_detections(truth, values, "detections")


def precision_of(coco: dict[str, Any], records: list[dict[str, Any]], **options: Any) -> AveragePrecision:
    return AveragePrecision(match(*columns(coco, records), **options))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("max_dets", [100, 11])
def test_the_full_set_is_pycocotools_to_1e_12(seed: int, max_dets: int) -> None:
    coco, found = random_coco(seed)
    assert any(record["iscrowd"] for record in coco["annotations"])
    assert {image["id"] for image in coco["images"]} - {record["image_id"] for record in coco["annotations"]}
    reference = pycocotools_precision(coco, found, max_dets)
    for index, area in enumerate(AREAS):
        ap = precision_of(coco, found, area=area, max_dets=max_dets)
        expected = reference[..., index]
        np.testing.assert_allclose(
            ap(), [mean_of(threshold) for threshold in expected], rtol=0, atol=1e-12, err_msg=area
        )
        assert abs(ap().mean() - mean_of(expected)) < 1e-12
        per_class = np.where((expected > -1).all(axis=1), expected.mean(axis=1), np.nan)
        np.testing.assert_allclose(ap.per_class(), per_class, rtol=0, atol=1e-12)


def test_many_detections_of_one_class_are_cut_off_as_pycocotools_does() -> None:
    rng = np.random.default_rng(3)
    coco, _ = random_coco(5, num_images=2, num_classes=2, max_boxes=30)
    found = [
        {"image_id": image["id"], "category_id": 1, "bbox": rng.uniform(20, 150, 4).tolist(), "score": float(score)}
        for image in coco["images"]
        for score in rng.random(150)
    ]
    found += [
        {k: record[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.2} for record in coco["annotations"]
    ]
    for max_dets in (100, 300):
        expected = mean_of(pycocotools_precision(coco, found, max_dets)[..., 0])
        assert abs(precision_of(coco, found, max_dets=max_dets)().mean() - expected) < 1e-12
    values = [precision_of(coco, found, max_dets=n)().mean() for n in (100, 300)]
    assert values[0] != values[1], "the limit makes a difference here"


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_copies_of_images(seed: int) -> None:
    coco, found = random_coco(seed, num_images=12, ties=False)
    ids = sorted(image["id"] for image in coco["images"])
    weights = np.random.default_rng(seed).integers(0, 4, len(ids))
    # Copies lie side by side in the order of ids, as weights count them.
    copied: dict[str, Any] = {"images": [], "annotations": [], "categories": coco["categories"]}
    copied_found = []
    for rank, image_id in enumerate(ids):
        for number in range(weights[rank]):
            new = 1000 * rank + number
            copied["images"].append({"id": new})
            for record in coco["annotations"]:
                if record["image_id"] == image_id:
                    copied["annotations"].append(record | {"image_id": new, "id": len(copied["annotations"]) + 1})
            copied_found += [record | {"image_id": new} for record in found if record["image_id"] == image_id]
    expected = mean_of(pycocotools_precision(copied, copied_found)[..., 0])
    assert abs(precision_of(coco, found)(weights).mean() - expected) < 1e-12


def test_a_part_of_the_images_is_pycocotools_on_that_part() -> None:
    coco, found = random_coco(2)
    ids = sorted(image["id"] for image in coco["images"])
    part = np.arange(len(ids)) % 3 == 0
    chosen = [i for i, inside in zip(ids, part, strict=True) if inside]
    expected = mean_of(pycocotools_precision(coco, found, image_ids=chosen)[..., 0])
    assert abs(precision_of(coco, found)(part.astype(np.int64)).mean() - expected) < 1e-12


def test_the_order_of_images_and_classes_in_the_files_changes_nothing() -> None:
    coco, found = random_coco(7)
    expected = precision_of(coco, found).per_class()
    shuffled = copy.deepcopy(coco)
    rng = np.random.default_rng(0)
    for key in ("images", "categories"):
        rng.shuffle(shuffled[key])
    by_image = {image["id"]: rank for rank, image in enumerate(shuffled["images"])}
    # Within an image the order decides ties; images go anywhere.
    shuffled["annotations"].sort(key=lambda record: by_image[record["image_id"]])
    moved = sorted(found, key=lambda record: by_image[record["image_id"]])
    np.testing.assert_array_equal(precision_of(shuffled, moved).per_class(), expected)


def test_nothing_found_and_nothing_there() -> None:
    coco, found = random_coco(1)
    assert precision_of(coco, [])().tolist() == [0.0] * 10
    assert np.isnan(precision_of(coco | {"annotations": []}, found)()).all()
    assert np.isnan(precision_of(coco, found)(np.zeros(len(coco["images"]), np.int64))).all()
    assert np.isnan(precision_of(coco | {"annotations": []}, [])()).all()


def test_hand_computed_matches() -> None:
    box = {"id": 1, "image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0}
    crowd = {"id": 2, "image_id": 5, "category_id": 1, "bbox": [20, 0, 40, 40], "iscrowd": 1}
    coco = {"images": [{"id": 5}], "categories": [{"id": 1, "name": "x"}], "annotations": [box, crowd]}
    at = {"image_id": 5, "category_id": 1}
    found = [
        at | {"bbox": [0, 0, 10, 10], "score": 0.5},  # the box, but too late
        at | {"bbox": [0, 0, 10, 8], "score": 0.9},  # IoU 0.8: takes the box up to 0.8
        at | {"bbox": [21, 1, 5, 5], "score": 0.8},  # inside the crowd
        at | {"bbox": [22, 1, 5, 5], "score": 0.7},  # inside it too: a crowd takes any number
        at | {"bbox": [90, 90, 5, 5], "score": 0.6},
    ]
    matches = match(*columns(coco, found))
    assert matches.rows.tolist() == [1, 2, 3, 4, 0]
    assert matches.is_true[:, 0].tolist() == [True] * 7 + [False] * 3
    assert matches.is_true[:, 4].tolist() == [False] * 7 + [True] * 3
    assert matches.is_ignored.tolist() == [[False, True, True, False, False]] * 10
    assert matches.truth_images.tolist() == [0]
    # At 0.5 to 0.8: found first, precision 1. At 0.85 and more: the third that counts, precision 1/3.
    expected = [1.0] * 7 + [1 / 3] * 3
    np.testing.assert_allclose(AveragePrecision(matches)(), expected, atol=1e-12)


def test_iou_of_crowds_touching_and_empty_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 0, 0]], float)
    b = np.array([[5, 0, 10, 10], [5, 0, 10, 10], [10, 0, 10, 10], [0, 0, 0, 0]], float)
    assert box_ious(a, b, np.array([False, True, False, False])).tolist() == [1 / 3, 0.5, 0, 0]


def test_an_annotation_with_id_0_can_be_found() -> None:
    box = {"id": 0, "image_id": 0, "category_id": 0, "bbox": [0, 0, 10, 10], "iscrowd": 0}
    coco = {"images": [{"id": 0}], "categories": [{"id": 0, "name": "x"}], "annotations": [box]}
    found = [{"image_id": 0, "category_id": 0, "bbox": [0, 0, 10, 10], "score": 0.5}]
    np.testing.assert_allclose(precision_of(coco, found)(), 1.0, atol=1e-12)
