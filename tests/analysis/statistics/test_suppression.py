"""NMS of stored detections: by hand, against torchvision's, and who has one of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_convert

from analysis.statistics import suppression
from analysis.statistics.suppression import kept_by_nms, own_nms_threshold, suppression_effect
from tests.support.coco_numbers import random_coco
from tests.support.hand_boxes import by_hand, coco_detections, detections
from tests.support.truths import truth_of


def test_by_hand() -> None:
    truth, found = by_hand()
    # The two duplicates of the best box, and the one below the score; IoU 0.4 stays, as do other classes and images.
    assert np.flatnonzero(~kept_by_nms(found, 0.5)).tolist() == [1, 2, 8]
    effect = suppression_effect(truth, found, 0.3)
    assert (effect.counts.num_duplicates, effect.counts_after.num_duplicates) == (2, 0)
    assert effect.counts.num_true == effect.counts_after.num_true == 4
    assert effect.ap is not None
    assert effect.ap_after is not None


def test_what_is_removed_removes_nothing() -> None:
    truth, _ = by_hand()
    row = [(1, 1, [x, 0.0, 10.0, 10.0], score) for x, score in ((0, 0.9), (3, 0.8), (6, 0.7))]
    # 3 pixels on, the IoU is 7 / 13; 6 pixels on, 4 / 16.
    assert kept_by_nms(detections(truth, *row), 0.5).tolist() == [True, False, True]
    assert kept_by_nms(detections(truth, *reversed(row)), 0.5).tolist() == [True, False, True]
    assert kept_by_nms(detections(truth, *row), 0.6).all()
    equal = [(1, 1, [0.0, 0.0, 10.0, 10.0], 0.5)] * 2
    assert kept_by_nms(detections(truth, *equal), 0.5).tolist() == [True, False], "the earlier of equal scores"
    assert kept_by_nms(detections(truth), 0.5).tolist() == []


@pytest.mark.parametrize("chunk", [4_000_000, 7])
def test_as_torchvision(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppression, "_CHUNK", chunk)
    coco, records = random_coco(3)
    found = coco_detections(truth_of(coco), records)
    boxes = box_convert(torch.from_numpy(found.boxes_xywh_abs), "xywh", "xyxy")
    groups = torch.from_numpy(found.image_indices * 100 + found.category_indices)
    expected = batched_nms(boxes, torch.from_numpy(found.scores), groups, 0.3)
    kept = np.flatnonzero(kept_by_nms(found, 0.3))
    assert 10 < len(kept) < len(found)
    assert kept.tolist() == sorted(expected.tolist())


@pytest.mark.parametrize(
    ("model", "threshold"),
    [
        ({"nms_threshold": 0.5}, 0.5),
        ({"rpn_nms_threshold": 0.7, "box_nms_threshold": 0.4}, 0.4),
        ({"rpn": {"nms_threshold": 0.7}, "heads": {"nms_threshold": 0.4}}, 0.4),
        ({"rpn_nms_threshold": 0.7}, None),
        ({"proposals": {"nms_threshold": 0.7}}, None),
        ({"nms_threshold": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_who_has_nms_of_its_own(model: Any, threshold: float | None) -> None:
    assert own_nms_threshold({"model": model}) == threshold
