"""Layouts of the proposal boxes."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.box_init import CenterInit, GridInit, ImageInit, RandomInit
from sparse_rcnn.boxes import cxcywh_to_xyxy
from sparse_rcnn.proposals import LearnedProposals


def test_center_boxes() -> None:
    torch.testing.assert_close(CenterInit(0.1)(2), torch.tensor([[0.5, 0.5, 0.1, 0.1]] * 2))
    proposals = LearnedProposals(num_proposals=3, hidden_dim=4, init=CenterInit(0.1))
    boxes, _ = proposals(torch.tensor([[100, 200]]))
    torch.testing.assert_close(boxes, torch.tensor([90.0, 45, 110, 55]).repeat(1, 3, 1))


def test_grid_boxes_by_hand() -> None:
    quarters = [[0.25, 0.25, 0.5, 0.5], [0.75, 0.25, 0.5, 0.5], [0.25, 0.75, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5]]
    torch.testing.assert_close(GridInit()(4), torch.tensor(quarters))
    third = 1 / 3
    below = [[third / 2, 0.75, third, 0.5], [0.5, 0.75, third, 0.5], [1 - third / 2, 0.75, third, 0.5]]
    torch.testing.assert_close(GridInit()(5), torch.tensor([*quarters[:2], *below]))
    hundred = [[0.05 + 0.1 * column, 0.05 + 0.1 * row, 0.1, 0.1] for row in range(10) for column in range(10)]
    torch.testing.assert_close(GridInit()(100), torch.tensor(hundred))
    torch.testing.assert_close(GridInit()(1), ImageInit()(1))


@pytest.mark.parametrize("num_proposals", [*range(1, 51), 60, 100, 300, 500])
def test_a_grid_covers_the_image_once(num_proposals: int) -> None:
    boxes = GridInit()(num_proposals)
    assert boxes.shape == (num_proposals, 4)
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes[:, 2:].prod(1).sum(), torch.tensor(1.0))
    xyxy = cxcywh_to_xyxy(boxes.double())
    assert xyxy.min() >= -1e-6
    assert xyxy.max() <= 1 + 1e-6
    # The areas sum up to the image's and no two boxes overlap: together they cover it.
    low = torch.maximum(xyxy[:, None, :2], xyxy[None, :, :2])
    high = torch.minimum(xyxy[:, None, 2:], xyxy[None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1).fill_diagonal_(0)
    assert overlap.max() < 1e-6
    ratio = boxes[:, 2] / boxes[:, 3]
    assert ratio.min() >= 1 / 2
    assert ratio.max() <= 2


def test_random_boxes() -> None:
    init = RandomInit(mean=0.5, std=0.25, min_size=0.05)
    torch.manual_seed(3)
    boxes = init(500)
    torch.manual_seed(3)
    assert torch.equal(init(500), boxes)
    assert not torch.equal(init(500), boxes)
    for std in (0.25, 5.0):
        boxes = RandomInit(mean=0.5, std=std, min_size=0.05)(500)
        assert boxes.shape == (500, 4)
        assert boxes.min() >= 0
        assert boxes.max() <= 1
        assert boxes[:, 2:].min() == torch.tensor(0.05)  # some are that small
        assert boxes[:, :2].min() < 0.05
    boxes = RandomInit(mean=0.4, std=0.1, min_size=0.01)(20_000)
    assert boxes.mean(0).tolist() == pytest.approx([0.4] * 4, abs=0.005)
    assert boxes.std(0).tolist() == pytest.approx([0.1] * 4, abs=0.005)
    correlation = torch.corrcoef(boxes.T) - torch.eye(4)
    assert correlation.abs().max() < 0.05
    assert torch.equal(RandomInit(mean=0.0, std=0.0, min_size=0.25)(1), torch.tensor([[0.0, 0.0, 0.25, 0.25]]))
