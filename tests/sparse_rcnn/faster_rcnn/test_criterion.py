"""The losses of Faster R-CNN by hand, and how micro-batches add up."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.faster_rcnn.criterion import FasterRCNNCriterion
from sparse_rcnn.faster_rcnn.output import FasterRCNNOutput, RoIOutput, SampledAnchors
from sparse_rcnn.structures import Targets


def output_by_hand() -> FasterRCNNOutput:
    anchors = SampledAnchors(
        objectness=torch.tensor([0.0, 0.0, 0.0, 0.0]),
        labels=torch.tensor([1.0, 0.0, 0.0, 0.0]),
        deltas=torch.tensor([[0.0, 0.0, 0.0, 2.0]]),
        wanted_deltas=torch.tensor([[0.0, 1.0, 0.0, 0.0]]),
    )
    deltas = torch.zeros(2, 3, 4)
    deltas[0, 2] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    deltas[0, 1] = 100.0  # of another class: not compared
    rois = RoIOutput(
        boxes_xyxy_abs=(torch.zeros(2, 4),),
        logits=torch.zeros(2, 3),
        deltas=deltas.flatten(1),
        labels=torch.tensor([2, 0]),
        wanted_deltas=torch.tensor([[0.0, 0.0, 0.0, 0.0], [-math.inf, math.nan, 0.0, 0.0]]),
    )
    return FasterRCNNOutput(rois, anchors)


def targets(num_images: int) -> Targets:
    return Targets.from_lists([torch.zeros(0, 4)] * num_images, [torch.zeros(0, dtype=torch.int64)] * num_images)


@pytest.mark.parametrize(("beta", "rpn_box", "box"), [(0.0, 3 / 4, 1 / 2), (1.0, (0.5 + 1.5) / 4, 0.5 / 2)])
def test_by_hand(beta: float, rpn_box: float, box: float) -> None:
    criterion = FasterRCNNCriterion(beta)
    assert criterion.counts(targets(1)) == (1,)
    losses = criterion(output_by_hand(), targets(1), torch.tensor([[10, 10]]), (1.0,))
    values = {name: losses[name].tolist() for name in criterion.part_names}
    assert values == {
        "loss_objectness": [pytest.approx(math.log(2))],
        "loss_rpn_box": [pytest.approx(rpn_box)],
        "loss_class": [pytest.approx(math.log(3))],
        "loss_box": [pytest.approx(box)],
    }


def test_a_micro_batch_counts_by_its_images() -> None:
    criterion = FasterRCNNCriterion(0.0)
    whole = criterion(output_by_hand(), targets(3), torch.tensor([[10, 10]]), (3.0,)).total
    part = criterion(output_by_hand(), targets(1), torch.tensor([[10, 10]]), (3.0,)).total
    assert part.item() == pytest.approx(whole.item() / 3)


def test_no_region_is_no_loss() -> None:
    rois = RoIOutput(
        boxes_xyxy_abs=(torch.zeros(0, 4),),
        logits=torch.zeros(0, 3),
        deltas=torch.zeros(0, 12),
        labels=torch.zeros(0, dtype=torch.int64),
        wanted_deltas=torch.zeros(0, 4),
    )
    output = FasterRCNNOutput(rois, output_by_hand().anchors)
    losses = FasterRCNNCriterion(0.0)(output, targets(1), torch.tensor([[10, 10]]), (1.0,))
    assert losses["loss_class"].item() == losses["loss_box"].item() == 0


def test_rejected_beta() -> None:
    with pytest.raises(ValueError, match="smooth_l1_beta must be a finite number of at least 0, got -1"):
        FasterRCNNCriterion(-1)
