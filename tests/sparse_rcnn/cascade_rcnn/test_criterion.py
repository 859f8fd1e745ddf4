"""The losses of a cascade: those of Faster R-CNN at each stage, those of proposals once."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.cascade_rcnn.criterion import CascadeRCNNCriterion
from sparse_rcnn.cascade_rcnn.output import CascadeOutput
from sparse_rcnn.faster_rcnn.output import RoIOutput, SampledAnchors
from sparse_rcnn.structures import Targets


def test_by_hand() -> None:
    anchors = SampledAnchors(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.ones(1, 4), torch.zeros(1, 4))
    stages = tuple(
        RoIOutput((torch.zeros(2, 4),), torch.zeros(2, 3), deltas, torch.tensor([2, 0]), torch.zeros(2, 4))
        for deltas in (torch.ones(2, 4), torch.full((2, 4), 2.0))
    )
    targets = Targets.from_lists([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.int64)])
    criterion = CascadeRCNNCriterion(0.0)
    assert criterion.counts(targets) == (1,)
    losses = criterion(CascadeOutput(stages, anchors), targets, torch.tensor([[9, 9]]), (2.0,))
    half = 0.5  # one of two images of the step
    log = torch.tensor([2.0, 3.0]).log().tolist()
    wanted = {
        "loss_objectness": [half * log[0], 0],
        "loss_rpn_box": [half * 4 / 2, 0],
        "loss_class": [half * log[1]] * 2,
        "loss_box": [half * 4 / 2, half * 8 / 2],
    }
    assert list(losses.parts) == list(criterion.part_names)
    for name, values in wanted.items():
        assert losses[name].tolist() == pytest.approx(values), name


def test_rejected_beta() -> None:
    with pytest.raises(ValueError, match="smooth_l1_beta must be a finite number of at least 0, got -1"):
        CascadeRCNNCriterion(-1)
