"""Anchors lie where the cells of the maps do."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from sparse_rcnn.faster_rcnn.anchors import StridedAnchors
from tests.support.faster_rcnn import small_faster_rcnn


def levels(strides: list[int] | None, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Anchors by level of a batch of 800 x 1120 pixels."""
    images = torch.empty(2, 3, 800, 1120)
    grids = [(200, 280), (100, 140), (50, 70), (25, 35), (13, 18)]
    anchors = StridedAnchors([32, 64, 128, 256, 512], [0.5, 1.0, 2.0], strides)
    maps = [torch.empty(2, 1, h, w, dtype=dtype) for h, w in grids]
    first, second = anchors(ImageList(images, [(800, 1100), (750, 1120)]), maps)
    assert torch.equal(first, second)
    return list(first.split([3 * h * w for h, w in grids]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strides_are_those_of_the_maps(dtype: torch.dtype) -> None:
    for stride, columns, anchors in zip(
        (4, 8, 16, 32, 64), (280, 140, 70, 35, 18), levels([4, 8, 16, 32, 64], dtype), strict=True
    ):
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        assert anchors.dtype == torch.float32
        assert torch.equal(centres[3] - centres[0], torch.tensor([float(stride), 0.0]))
        assert torch.equal(centres[3 * columns] - centres[0], torch.tensor([0.0, float(stride)]))


def test_torchvisions_quotient_is_another_stride_at_the_last_level() -> None:
    last = levels(None)[-1]
    assert (last[3] - last[0]).tolist() == [62, 0, 62, 0]
    assert (last[3 * 18] - last[0]).tolist() == [0, 61, 0, 61]


def test_p6_is_every_other_cell_of_p5() -> None:
    model = small_faster_rcnn().eval()
    maps = model.backbone(torch.randn(1, 3, 96, 160))
    assert [tuple(m.shape[2:]) for m in maps] == [(24, 40), (12, 20), (6, 10), (3, 5), (2, 3)]
    assert torch.equal(maps[4], maps[3][..., ::2, ::2])
