"""The mask of the padding, at the pixels and at a map, against loops."""

from __future__ import annotations

import pytest
import torch

from sparse_rcnn.detr.padding_mask import at_resolution, padding_mask

SIZES = [[37, 50], [64, 11], [1, 64], [64, 64]]


def test_mask_is_true_on_the_padding_alone() -> None:
    mask = padding_mask(torch.tensor(SIZES), 64, 64)
    assert mask.dtype == torch.bool
    wanted = [[[y >= h or x >= w for x in range(64)] for y in range(64)] for h, w in SIZES]
    assert mask.tolist() == wanted


@pytest.mark.parametrize(("height", "width"), [(64, 64), (2, 2), (3, 2), (5, 7), (1, 1)])
def test_a_cell_takes_the_pixel_of_the_ratio_of_sizes(height: int, width: int) -> None:
    # Exact in integers; 3 cells on 64 pixels are not 32 apart.
    got = at_resolution(padding_mask(torch.tensor(SIZES), 64, 64), height, width)
    wanted = [
        [[y * 64 // height >= h or x * 64 // width >= w for x in range(width)] for y in range(height)] for h, w in SIZES
    ]
    assert got.tolist() == wanted


def test_every_image_keeps_a_cell() -> None:
    got = at_resolution(padding_mask(torch.tensor([[1, 1]]), 500, 700), 16, 22)
    assert (~got).sum() == 1
    assert not got[0, 0, 0]
