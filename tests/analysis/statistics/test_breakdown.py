"""AP by size, class, crowding and stage, what explains a difference, and duplicates by stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.breakdown import (
    SubsetAP,
    boxes_per_image,
    by_box_count,
    by_class,
    by_overlap,
    by_size,
    by_stage,
    contributions,
    largest_overlaps,
)
from analysis.statistics.duplicates import DuplicateCounts, removed_percent
from analysis.statistics.matching import match
from tests.support.coco_numbers import mean_of, pycocotools_precision, random_coco
from tests.support.hand_boxes import IMAGES, box, by_hand, coco_detections, detections, two_stages
from tests.support.truths import truth_of


def test_counts_and_overlaps_of_images() -> None:
    truth, _ = by_hand()
    assert boxes_per_image(truth).tolist() == [3, 1]
    assert largest_overlaps(truth).tolist() == [0, 0]
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 2, [5, 0, 10, 10]), box(1, 1, [0, 8, 10, 10]), box(2, 1, [0, 0, 9, 9])]
    truth = truth_of(IMAGES | {"annotations": [*boxes, box(2, 1, [0, 0, 9, 9], crowd=1)]})
    np.testing.assert_allclose(largest_overlaps(truth), [50 / 150, 0])


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_what_pycocotools_gives_for_them(seed: int) -> None:
    coco, found = random_coco(seed)
    truth = truth_of(coco)
    own = coco_detections(truth, found)
    precision = pycocotools_precision(coco, found)
    for index, part in enumerate(by_size(truth, own), start=1):
        assert part.ap == pytest.approx(100 * mean_of(precision[..., index]), abs=1e-10)
    whole = AveragePrecision(match(truth, own))
    classes = by_class(truth, whole)
    assert [part.name for part in classes] == ["class 0", "class 1", "class 2"], "the last class has no box"
    for k, part in enumerate(classes):
        assert part.ap == pytest.approx(100 * mean_of(precision[:, :, k, 0]), abs=1e-10)
    counts = {image["id"]: 0 for image in coco["images"]}
    for record in coco["annotations"]:
        counts[record["image_id"]] += not record["iscrowd"]
    parts = {part.name: part for part in by_box_count(truth, whole)}
    chosen = [image for image, count in counts.items() if 2 <= count <= 3]
    assert parts["2 to 3"].count == len(chosen)
    expected = mean_of(pycocotools_precision(coco, found, image_ids=chosen)[..., 0])
    assert parts["2 to 3"].ap == pytest.approx(100 * expected, abs=1e-10)
    assert parts["0"].ap is None
    assert sum(part.count for part in parts.values()) == len(coco["images"])
    assert sum(part.count for part in by_overlap(truth, whole)) == len(coco["images"])


def test_stages(tmp_path: Path) -> None:
    truth, found = by_hand()
    last = found.chosen(np.array([0, 5, 6, 9]))
    first, second = by_stage(truth, [found, last], 0.3)
    assert (first.index, second.index) == (0, 1)
    assert first.ap is not None
    assert second.ap is not None
    assert first.ap < second.ap
    assert first.above_score.everywhere == DuplicateCounts(9, 4, 2, 1)
    assert second.above_score.everywhere == DuplicateCounts(4, 4, 0, 0)
    assert first.above_score.crowded.num_detections == 0, "no boxes overlap"
    assert first.above_score.elsewhere == first.above_score.everywhere
    assert first.best.everywhere == DuplicateCounts(4, 1, 2, 0), "four boxes without the crowd: the four best"
    assert second.best == second.above_score


def test_contributions_of_classes_by_hand() -> None:
    categories = [*IMAGES["categories"], {"id": 3, "name": "no box"}]
    boxes = [box(1, 1, [0, 0, 10, 10]), box(1, 1, [50, 0, 10, 10]), box(2, 2, [0, 0, 10, 10])]
    truth = truth_of(IMAGES | {"categories": categories, "annotations": boxes})
    both_a = detections(truth, (1, 1, [0, 0, 10, 10], 0.9), (1, 1, [50, 0, 10, 10], 0.8))
    one_a_and_b = detections(truth, (1, 1, [0, 0, 10, 10], 0.9), (2, 2, [0, 0, 10, 10], 0.8))
    classes = [by_class(truth, AveragePrecision(match(truth, own))) for own in (both_a, one_a_and_b)]
    assert [part.ap for part in classes[0]] == [100, 0]
    # Half of the boxes: 51 of the 101 recalls.
    assert [part.ap for part in classes[1]] == pytest.approx([100 * 51 / 101, 100])
    assert contributions(*classes) == pytest.approx([-100 * 50 / 101 / 2, 50])


@pytest.mark.parametrize("seed", range(3))
def test_contributions_add_up_to_the_difference(seed: int) -> None:
    coco, found = random_coco(seed)
    truth = truth_of(coco)
    both = [AveragePrecision(match(truth, coco_detections(truth, own))) for own in (found, found[::2])]
    added = contributions(*(by_class(truth, precision) for precision in both))
    assert len(added) == 3
    assert sum(value for value in added if value is not None) == pytest.approx(
        100 * (both[1]().mean() - both[0]().mean()), abs=1e-10
    )


def test_a_class_without_ap_contributes_nothing_and_is_not_counted() -> None:
    first, second = [SubsetAP("a", 1, 10.0), SubsetAP("b", 1, None)], [SubsetAP("a", 1, 30.0), SubsetAP("b", 1, None)]
    assert contributions(first, second) == [20, None]


def test_removed_duplicates_by_hand() -> None:
    coco, records = two_stages()
    truth = truth_of(coco)
    first, last = by_stage(truth, [coco_detections(truth, stage) for stage in records], 0.3)
    # Above the score: 1 duplicate for 1 box found, then 3 for 4; in the crowded image nothing, then 1 for 2.
    assert first.above_score == (DuplicateCounts(2, 1, 1, 0), DuplicateCounts(0, 0, 0, 0), DuplicateCounts(2, 1, 1, 0))
    assert last.above_score == (DuplicateCounts(7, 4, 3, 0), DuplicateCounts(3, 2, 1, 0), DuplicateCounts(4, 2, 2, 0))
    removed = [removed_percent(*pair) for pair in zip(first.above_score, last.above_score, strict=True)]
    assert removed == [pytest.approx(25), None, pytest.approx(0)]
    # Of the four best: 2 duplicates for 2 boxes found, then 1 for 3. Of the two best of each image: 1 for 1, then none.
    assert first.best == (DuplicateCounts(4, 2, 2, 0), DuplicateCounts(2, 1, 1, 0), DuplicateCounts(2, 1, 1, 0))
    assert last.best == (DuplicateCounts(4, 3, 1, 0), DuplicateCounts(2, 2, 0, 0), DuplicateCounts(2, 2, 0, 0))
    removed = [removed_percent(*pair) for pair in zip(first.best, last.best, strict=True)]
    assert removed == pytest.approx([100 * 2 / 3, 100, 100])
    assert removed_percent(last.best.everywhere, first.best.everywhere) == pytest.approx(-200), "added"
    assert removed_percent(last.best.crowded, first.best.crowded) is None, "there was none to remove"
