from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.deformable_detr.heads import ClassHead, ReferencedBoxHead, inverse_sigmoid


def test_boxes_start_at_the_reference_points_in_one_size() -> None:
    points = torch.tensor([[[0.3, 0.9], [0.0, 1.0]]])
    boxes = ReferencedBoxHead(hidden_dim=8)(torch.randn(1, 2, 8), points)
    torch.testing.assert_close(boxes[..., :2], points, rtol=0, atol=2e-5)
    torch.testing.assert_close(boxes[..., 2:], torch.full((1, 2, 2), 1 / (1 + math.exp(2))))


def test_classes_start_at_one_percent() -> None:
    logits = ClassHead(hidden_dim=8, num_classes=3)(torch.zeros(1, 2, 8))
    torch.testing.assert_close(logits.sigmoid(), torch.full((1, 2, 3), 0.01))


def test_hidden_layers_start_as_pytorch_has_them() -> None:
    # Not Xavier, whose bound would be larger by the root of 3.
    for layer in ReferencedBoxHead(hidden_dim=64).layers[:2]:
        assert 0.95 / 8 < layer.weight.abs().max() <= 1 / 8
        assert 0.8 / 8 < layer.bias.abs().max() <= 1 / 8


def test_a_box_is_moved_before_the_sigmoid() -> None:
    torch.manual_seed(1)
    head = ReferencedBoxHead(hidden_dim=8)
    torch.nn.init.normal_(head.layers[2].weight)
    x, point = torch.randn(8), [0.2, 0.6]
    hidden = head.layers[1](head.layers[0](x).clamp(min=0)).clamp(min=0)
    moves = head.layers[2](hidden).tolist()
    logits = [moves[0] + math.log(0.2 / 0.8), moves[1] + math.log(0.6 / 0.4), moves[2], moves[3]]
    got = head(x[None, None], torch.tensor([[point]]))
    assert got.flatten().tolist() == pytest.approx([1 / (1 + math.exp(-v)) for v in logits], rel=1e-5)


def test_inverse_sigmoid() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-6, 0.3, 0.5, 1.0, 2.0])
    wanted = [math.log(1e-5)] * 3 + [math.log(0.3 / 0.7), 0.0] + [math.log(1e5)] * 2
    assert inverse_sigmoid(x).tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_rejected() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        ClassHead(hidden_dim=8, num_classes=0)
