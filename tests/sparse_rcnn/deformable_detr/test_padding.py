from __future__ import annotations

import pytest
import torch

from sparse_rcnn.deformable_detr.padding import valid_ratio_wh
from sparse_rcnn.detr.padding_mask import at_resolution, padding_mask

SIZES = [(37, 64), (64, 41), (1, 1)]
PADDED = (64, 64)


@pytest.mark.parametrize("shape_hw", [(8, 8), (5, 7), (2, 3), (1, 1)])
def test_masks_and_ratios_against_plain_loops(shape_hw: tuple[int, int]) -> None:
    mask = at_resolution(padding_mask(torch.tensor(SIZES), *PADDED), *shape_hw)
    ratios = valid_ratio_wh(mask)
    for n, (height, width) in enumerate(SIZES):
        wanted = [
            [
                i * PADDED[0] // shape_hw[0] >= height or j * PADDED[1] // shape_hw[1] >= width
                for j in range(shape_hw[1])
            ]
            for i in range(shape_hw[0])
        ]
        assert mask[n].tolist() == wanted
        num_columns = sum(not padding for padding in wanted[0])
        num_rows = sum(not row[0] for row in wanted)
        assert ratios[n].tolist() == pytest.approx([num_columns / shape_hw[1], num_rows / shape_hw[0]])
        assert min(num_rows, num_columns) >= 1
