"""One detection per query: the best real class, boxes scaled and not clipped."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.detr.output import QueryOutput
from sparse_rcnn.detr.postprocess import select_query_detections
from tests.support.detr import random_query_outputs


def test_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(2.0), math.log(5.0)], [math.log(6.0), 0.0, 0.0]]])
    boxes = torch.tensor([[[0.5, 0.5, 1.0, 0.5], [0.9, 0.5, 0.4, 0.2]]])
    (got,) = select_query_detections(QueryOutput(logits, boxes), torch.tensor([[100, 200]]))
    assert got.labels.tolist() == [0, 1]
    # 'No object' is the likeliest of the first query: its best real class counts.
    assert got.scores.tolist() == pytest.approx([6 / 8, 2 / 8])
    assert got.boxes_xyxy_abs.flatten().tolist() == pytest.approx([140, 40, 220, 60, 0, 25, 200, 75], abs=1e-4)


def test_every_query_once_and_the_best_first() -> None:
    output = random_query_outputs(1, 3, 7, 4)[0]
    found = select_query_detections(output, torch.tensor([[10, 20], [30, 30], [5, 9]]))
    assert [len(d) for d in found] == [7, 7, 7]
    for n, detections in enumerate(found):
        assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
        assert detections.labels.dtype == torch.int64
        assert not detections.scores.requires_grad
        scores, labels = output.logits[n].softmax(-1)[:, :-1].max(-1)
        order = scores.argsort(descending=True)
        assert torch.equal(detections.labels, labels[order])
        torch.testing.assert_close(detections.scores, scores[order].detach())


def test_no_images() -> None:
    output = QueryOutput(torch.zeros(0, 5, 3), torch.zeros(0, 5, 4))
    assert select_query_detections(output, torch.zeros(0, 2, dtype=torch.int64)) == []
