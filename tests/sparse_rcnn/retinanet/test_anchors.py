"""Anchors at fixed strides: equal to torchvision's where its are right, and on the cells where they are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from sparse_rcnn.retinanet.anchors import PyramidAnchors

STRIDES = (8, 16, 32, 64, 128)
PAPER = [32, 64, 128, 256, 512]


def anchors(sizes: list[float] = PAPER, num_scales: int = 3, ratios: tuple[float, ...] = (0.5, 1, 2)) -> PyramidAnchors:
    return PyramidAnchors(sizes, num_scales, ratios, STRIDES)


def maps_of(height: int, width: int, device: str = "cpu") -> list[Tensor]:
    return [torch.empty(1, 1, -(-height // s), -(-width // s), device=device) for s in STRIDES]


def torchvision_anchors(height: int, width: int) -> Tensor:
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in PAPER)
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    return generator(ImageList(torch.empty(1, 3, height, width), [(height, width)]), maps_of(height, width))[0]


def test_equal_to_torchvision_at_multiples_of_128() -> None:
    assert torch.equal(torch.cat(anchors()(maps_of(256, 384))), torchvision_anchors(256, 384))


def test_anchors_stay_on_their_cells_at_800_by_1120() -> None:
    levels = anchors()(maps_of(800, 1120))
    assert [len(level) for level in levels] == [126000, 31500, 7875, 13 * 18 * 9, 7 * 9 * 9]
    grids = [(100, 140), (50, 70), (25, 35), (13, 18), (7, 9)]
    for level, stride, (rows, columns) in zip(levels, STRIDES, grids, strict=True):
        centres = ((level[:, :2] + level[:, 2:]) / 2).view(rows, columns, 9, 2)
        expected = stride * torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"), -1)
        assert torch.equal(centres, expected.flip(-1)[:, :, None].expand(-1, -1, 9, -1).float())
    # Where torchvision's have drifted by most of a cell.
    drift = (torch.cat(levels) - torchvision_anchors(800, 1120)).abs().amax(0)
    assert drift[1].item() == 6 * (128 - 114)


def test_sizes_and_ratios_of_a_cell() -> None:
    first = anchors([24, 48, 96, 192, 384], num_scales=2, ratios=(1.0, 4.0))(maps_of(128, 128))[0][:4]
    assert first.tolist() == [[-12, -12, 12, 12], [-16, -16, 16, 16], [-6, -24, 6, 24], [-8, -33, 8, 33]]


def test_float32_on_the_device_of_the_maps_whatever_the_model_was_cast_to() -> None:
    module = anchors().to(torch.bfloat16)
    wanted = anchors()(maps_of(128, 128))
    assert all(level.dtype == torch.float32 for level in module(maps_of(128, 128)))
    assert [level.shape for level in module(maps_of(128, 128, "meta"))] == [level.shape for level in wanted]
    assert module.state_dict() == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": [32, 64]}, r"^anchor_sizes needs one size a level, 5, got \[32, 64\]$"),
        ({"sizes": [0, 1, 2, 3, 4]}, r"^anchor_sizes must be at least 1 pixel, got \[0, 1"),
        ({"num_scales": 0}, "^num_scales must be at least 1, got 0$"),
        ({"ratios": ()}, r"^aspect_ratios must be positive, and at least one, got \[\]$"),
        ({"ratios": (1.0, -1.0)}, "^aspect_ratios must be positive"),
    ],
)
def test_anchors_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        anchors(**changes)
