"""From stage outputs to detections, against plain Python and by hand."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.postprocess import select_detections
from sparse_rcnn.structures import StageOutput
from tests.support import naive
from tests.support.detectors import random_outputs

SIZES = torch.tensor([[100, 140], [90, 60]])
ORIGINALS = torch.tensor([[333, 401], [45, 30]])


@pytest.mark.parametrize(("num_proposals", "num_classes"), [(12, 4), (1, 1), (3, 80), (30, 1)])
def test_detections_equal_the_naive_ones(num_proposals: int, num_classes: int) -> None:
    output = random_outputs(1, num_proposals, num_classes, SIZES)[0]
    boxes = output.boxes_xyxy_abs.detach() * 1.6 - 40  # some across the border, some outside
    detections = select_detections(StageOutput(output.logits, boxes), SIZES, ORIGINALS)
    assert len(detections) == 2
    for n, found in enumerate(detections):
        wanted = naive.select_detections(
            output.logits[n].detach().double().numpy(),
            boxes[n].double().numpy(),
            SIZES[n].tolist(),
            ORIGINALS[n].tolist(),
        )
        assert found.labels.tolist() == [label for _, label, _ in wanted]
        assert found.scores.tolist() == pytest.approx([score for score, _, _ in wanted], abs=1e-6)
        for box, (_, _, wanted_box) in zip(found.boxes_xyxy_abs.tolist(), wanted, strict=True):
            assert box == pytest.approx(wanted_box, abs=1e-3)


def test_one_box_may_come_with_several_labels_and_no_nms_is_done() -> None:
    # Proposal 0 is sure of two classes, proposal 1 has the same box and is sure of one; proposal 2 loses.
    logits = torch.tensor([[[5.0, 4.0, -9.0], [-9.0, 3.0, -9.0], [-9.0, -9.0, -8.0]]])
    boxes = torch.tensor([[[10.0, 10, 20, 20], [10, 10, 20, 20], [0, 0, 5, 5]]])
    size = torch.tensor([[50, 50]])
    (found,) = select_detections(StageOutput(logits, boxes), size, size)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.boxes_xyxy_abs.tolist() == [[10, 10, 20, 20]] * 3
    assert found.scores.tolist() == pytest.approx([torch.tensor(v).sigmoid().item() for v in (5.0, 4.0, 3.0)])


def test_there_is_no_score_threshold() -> None:
    output = StageOutput(torch.full((1, 4, 2), -60.0), torch.tensor([0.0, 0, 10, 10]).repeat(1, 4, 1))
    (found,) = select_detections(output, torch.tensor([[50, 50]]), torch.tensor([[50, 50]]))
    assert len(found) == 4
    assert (found.scores < 1e-20).all()


def test_ties_give_every_pair_of_box_and_label_at_most_once() -> None:
    boxes = torch.arange(6.0)[None, :, None] + torch.tensor([0.0, 0, 10, 10])
    output = StageOutput(torch.zeros(1, 6, 4), boxes)
    (found,) = select_detections(output, torch.tensor([[50, 50]]), torch.tensor([[50, 50]]))
    assert len(found) == 6
    assert len({(b[0], y) for b, y in zip(found.boxes_xyxy_abs.tolist(), found.labels.tolist(), strict=True)}) == 6
    assert found.scores.tolist() == [0.5] * 6


def test_boxes_are_scaled_then_clipped_then_dropped_where_empty() -> None:
    boxes = torch.tensor(
        [
            [
                [-10.0, -10, 60, 60],  # larger than the image: clipped to all of it
                [49.0, 10, 51, 20],  # across the right border
                [50.0, 10, 60, 20],  # begins at the border: nothing left
                [10.0, 20, 10, 30],  # no width
                [30.0, 20, 20, 30],  # inverted
                [-20.0, 5, -10, 20],  # outside
                [10.0, 10, 20, 20],
            ]
        ]
    )
    logits = torch.arange(7.0, 0, -1)[None, :, None]
    (found,) = select_detections(StageOutput(logits, boxes), torch.tensor([[50, 50]]), torch.tensor([[200, 100]]))
    assert found.boxes_xyxy_abs.tolist() == [[0, 0, 100, 200], [98, 40, 100, 80], [20, 40, 40, 80]]
    assert found.scores.tolist() == pytest.approx([torch.tensor(v).sigmoid().item() for v in (7.0, 6.0, 1.0)])


def test_types_and_low_precision() -> None:
    output = random_outputs(1, 5, 3, SIZES)[0]
    half = StageOutput(output.logits.bfloat16(), output.boxes_xyxy_abs)
    for found in select_detections(half, SIZES, ORIGINALS):
        assert found.boxes_xyxy_abs.dtype == found.scores.dtype == torch.float32
        assert found.labels.dtype == torch.int64
        assert not found.boxes_xyxy_abs.requires_grad
        assert (found.scores[:-1] >= found.scores[1:]).all()
