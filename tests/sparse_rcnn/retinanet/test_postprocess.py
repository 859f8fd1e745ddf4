"""From anchors to detections: against loops, and values that are not finite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from sparse_rcnn.finite import NonFinitePredictionError
from sparse_rcnn.retinanet.postprocess import detections_of_anchors
from tests.support.retinanet import naive_detections, random_output

SIZES = torch.tensor([[90, 70], [100, 100], [60, 95]])
ORIGINALS = torch.tensor([[180, 140], [50, 70], [60, 95]])
OPTIONS = {"score_threshold": 0.3, "num_candidates": 25, "nms_threshold": 0.4, "max_detections": 100}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_detections": 7},
        {"num_candidates": 3},
        {"score_threshold": 0.05, "nms_threshold": 1.0},
        {"score_threshold": 1.0},
        {"num_candidates": 100000},
    ],
)
def test_against_loops(changes: dict[str, Any]) -> None:
    output, options = random_output(3, 2, [30, 12, 5]), OPTIONS | changes
    found = detections_of_anchors(output, SIZES, ORIGINALS, **options)
    for i, detections in enumerate(found):
        wanted = naive_detections(output, i, SIZES[i].tolist(), ORIGINALS[i].tolist(), **options)
        assert (len(wanted) > 0) == (options["score_threshold"] < 1)
        assert detections.labels.tolist() == [label for _, label, _ in wanted]
        torch.testing.assert_close(detections.scores, torch.tensor([score for score, _, _ in wanted]))
        boxes = torch.tensor([box for _, _, box in wanted]).view(-1, 4)
        torch.testing.assert_close(detections.boxes_xyxy_abs, boxes, rtol=1e-5, atol=1e-4)


def test_a_box_outside_its_image_is_dropped() -> None:
    output = random_output(1, 1, [1])
    anchors = (torch.tensor([[80.0, 10, 90, 20]]),)
    alone = replace(output, deltas=torch.zeros_like(output.deltas), level_anchors_xyxy_abs=anchors)
    options = OPTIONS | {"score_threshold": 0.0}
    inside, outside = (
        detections_of_anchors(alone, torch.tensor([[50, width]]), torch.tensor([[50, width]]), **options)[0]
        for width in (85, 80)
    )
    assert inside.boxes_xyxy_abs.tolist() == [[80, 10, 85, 20]]
    assert len(outside) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tensor", ["logits", "deltas"])
def test_values_that_are_not_finite_are_an_error(tensor: str, value: float) -> None:
    output = random_output(3, 2, [30, 12, 5])
    broken = getattr(output, tensor).detach().clone()
    broken[1, 40] = value
    with pytest.raises(NonFinitePredictionError, match=f"^detections: NaN or infinity in {tensor}: take weights of a"):
        detections_of_anchors(replace(output, **{tensor: broken}), SIZES, ORIGINALS, **OPTIONS)


def test_boxes_of_bfloat16_deltas_are_decoded_in_float32() -> None:
    output = random_output(3, 2, [30, 12, 5])
    half = replace(output, logits=output.logits.bfloat16(), deltas=output.deltas.bfloat16())
    whole = replace(half, logits=half.logits.float(), deltas=half.deltas.float())
    for a, b in zip(
        detections_of_anchors(half, SIZES, ORIGINALS, **OPTIONS),
        detections_of_anchors(whole, SIZES, ORIGINALS, **OPTIONS),
        strict=True,
    ):
        assert a.boxes_xyxy_abs.dtype == a.scores.dtype == torch.float32
        assert sorted(map(tuple, a.boxes_xyxy_abs.tolist())) == sorted(map(tuple, b.boxes_xyxy_abs.tolist()))
