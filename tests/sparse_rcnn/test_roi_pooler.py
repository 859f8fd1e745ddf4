"""Levels of boxes and RoI pooling, against plain Python loops, torchvision's RoIAlign and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sparse_rcnn.roi_pooler import GatherRoIAlign, MultiLevelRoIAlign, assign_levels
from tests.support import naive
from tests.support.level_roi_align import level_roi_align
from tests.support.pyramids import boxes_of_every_kind, maps_of

POOLERS = [MultiLevelRoIAlign, GatherRoIAlign]


@pytest.mark.parametrize(("side", "upper"), [(112, 3), (224, 4), (448, 5)])
def test_levels_at_the_boundaries(side: int, upper: int) -> None:
    at = np.float32(side * side)
    areas = [at]
    for _ in range(3):  # one ulp to either side and beyond: (sqrt and log2 in float32 absorb some)
        areas = [np.nextafter(areas[0], np.float32(0)), *areas, np.nextafter(areas[-1], np.float32(1e9))]
    boxes = torch.tensor([[0.0, 0.0, float(a), 1.0] for a in areas])  # an area of exactly a
    got = assign_levels(boxes, 2, 5)
    f = np.float32
    formula = np.floor(f(4) + np.log2(np.sqrt(np.array(areas, dtype=f)) / f(224) + f(1e-8)))
    assert got.tolist() == formula.tolist()
    assert got[3] == upper
    assert (got[3:] == upper).all()
    clearly_smaller = torch.tensor([[0.0, 0.0, side * (1 - 1e-5), side]])
    assert assign_levels(clearly_smaller, 2, 5).tolist() == [upper - 1]


def test_the_epsilon_of_the_level_formula_is_there() -> None:
    # In float64, areas within 1e-8 * 2 ** k below a boundary belong to the upper level, and no others.
    for side, upper, tolerance in ((112, 3, 2e-8), (224, 4, 1e-8), (448, 5, 0.5e-8)):
        sides = torch.tensor([side * (1 - 0.9 * tolerance), side * (1 - 1.1 * tolerance)], dtype=torch.float64)
        boxes = torch.stack((0 * sides, 0 * sides, sides, sides), 1)
        assert assign_levels(boxes, 2, 5).tolist() == [upper, upper - 1]


def test_levels_by_hand() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0, 0, 0],  # no area
            [5.0, 5, 5, 300],  # no area
            [0.0, 0, 111, 111],
            [0.0, 0, 112, 112],
            [0.0, 0, 56, 224],
            [0.0, 0, 223, 223],
            [-100.0, -100, 124, 124],
            [0.0, 0, 447, 447],
            [0.0, 0, 448, 448],
            [0.0, 0, 1e5, 1e5],
            [300.0, 0, 0, 300],  # negative area
            [0.0, 300, 300, 0],
            [300.0, 300, 0, 0],  # both sides negative: as 300 x 300
        ]
    )
    assert assign_levels(boxes, 2, 5).tolist() == [2, 2, 2, 3, 3, 3, 4, 4, 5, 5, -1, -1, 4]


@pytest.mark.parametrize("pooler", POOLERS)
def test_pooling_equals_plain_loops(pooler: type) -> None:
    maps, boxes = maps_of(), boxes_of_every_kind()
    assert set(assign_levels(boxes, 2, 5).flatten().tolist()) == {-1, 2, 3, 4, 5}
    got = pooler(output_size=7, sampling_ratio=2)(maps, boxes)
    assert got.shape == (24, 3, 7, 7)
    wanted = [
        naive.roi_align([m[n].numpy() for m in maps], box, size=7, ratio=2)
        for n in range(2)
        for box in boxes[n].tolist()
    ]
    # torchvision scales boxes by a float32 1 / stride: exact here, so float64 rounding is all.
    torch.testing.assert_close(got, torch.tensor(np.stack(wanted)), rtol=1e-10, atol=1e-10)
    no_level = (assign_levels(boxes, 2, 5) < 0).flatten()
    assert no_level.sum() == 4
    assert (got[no_level] == 0).all()
    assert (got[9] != 0).any(), "a box with two negative sides has a feature"


@pytest.mark.parametrize("pooler", POOLERS)
@pytest.mark.parametrize(("output_size", "sampling_ratio"), [(1, 1), (3, 2), (2, 3)])
def test_other_sizes_and_sampling_ratios(pooler: type, output_size: int, sampling_ratio: int) -> None:
    maps, boxes = maps_of(), boxes_of_every_kind()[:, :6]
    got = pooler(output_size=output_size, sampling_ratio=sampling_ratio)(maps, boxes)
    wanted = [
        naive.roi_align([m[n].numpy() for m in maps], box, output_size, sampling_ratio)
        for n in range(2)
        for box in boxes[n].tolist()
    ]
    torch.testing.assert_close(got, torch.tensor(np.stack(wanted)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pooler", POOLERS)
def test_gradient_of_the_maps_and_none_of_the_boxes(pooler: type) -> None:
    maps = [m.requires_grad_() for m in maps_of(num_channels=1, side=32)]
    boxes = (boxes_of_every_kind() / 2)[:, [0, 2, 3, 5, 7, 9, 11]].requires_grad_()
    pool = pooler(output_size=2, sampling_ratio=2)
    assert torch.autograd.gradcheck(lambda *m: pool(m, boxes), maps)
    pool(maps, boxes).sum().backward()
    assert boxes.grad is None, "RoIAlign gives no gradient to boxes (semantics.md#roi-pooling)"
    assert all(m.grad is not None and (m.grad != 0).any() for m in maps[:1])


def random_boxes() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    centre = torch.rand(2, 60, 2, generator=generator) * 300 - 22
    side = 6 * 120 ** torch.rand(2, 60, 2, generator=generator)
    return torch.cat((centre - side / 2, centre + side / 2), 2)


def test_torchvisions_roi_align_level_by_level_agrees_in_float32_forward_and_backward() -> None:
    results = []
    for pool in (MultiLevelRoIAlign(output_size=7, sampling_ratio=2), level_roi_align):
        maps = [m.requires_grad_() for m in maps_of(num_channels=8, side=256, dtype=torch.float32)]
        pooled = pool(maps, random_boxes())
        weight = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(4))
        (pooled * weight).sum().backward()
        results.append((pooled.detach(), *(m.grad for m in maps)))
    for reference, other in zip(*results, strict=True):
        # Positions of hundreds of pixels carry rounding of 3e-5: that much of a pixel's contrast.
        torch.testing.assert_close(reference, other, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_prepared_pyramid_gives_the_same_in_either_memory_format(memory_format: torch.memory_format) -> None:
    pool = MultiLevelRoIAlign(output_size=7, sampling_ratio=2)
    maps, boxes = maps_of(), boxes_of_every_kind()
    pyramid = pool.prepare([m.contiguous(memory_format=memory_format) for m in maps])
    assert torch.equal(pool(pyramid, boxes), pool(maps, boxes))
    assert pyramid.sizes_hw.tolist() == [[32, 33], [16, 17], [8, 9], [4, 5]]
    assert pyramid.starts.tolist() == [0, 2 * 32 * 33, 2 * (32 * 33 + 16 * 17), 2 * (32 * 33 + 16 * 17 + 8 * 9)]
    row = 2 * 32 * 33 + 16 * 17 + 3 * 17 + 5  # p3, the second image, row 3, column 5
    assert torch.equal(pyramid.pixels[row], maps[1][1, :, 3, 5])


@pytest.mark.parametrize("pooler", POOLERS)
def test_bfloat16_maps_do_not_round_the_boxes(pooler: type) -> None:
    # A checkerboard is exact in bfloat16, so all that may differ is the rounding of the pooled values;
    # a box at 701.5 rounded to bfloat16 (704) would be more than half a pixel of the first map away.
    maps = [(torch.arange(n)[:, None] + torch.arange(n)).remainder(2)[None, None].float() for n in (256, 128, 64, 32)]
    boxes = torch.tensor([[[701.5, 699.0, 741.0, 745.0], [833.0, 517.5, 941.5, 600.0]]])
    pool = pooler(output_size=7, sampling_ratio=2)
    reference = pool(maps, boxes)
    half = [m.bfloat16() for m in maps]
    plain = pool(half, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = pool(half, boxes)
    for got in (plain, autocast):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.float(), reference, rtol=0, atol=0.01)


@pytest.mark.parametrize("pooler", POOLERS)
def test_boxes_that_are_not_finite_give_zeros_and_no_crash(pooler: type) -> None:
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[nan, 0, 10, 10], [-inf, 0, inf, 10], [0, 0, inf, inf], [10, 10, 50, 50]]])
    got = pooler(output_size=7, sampling_ratio=2)(maps_of(num_images=1, dtype=torch.float32), boxes)
    assert (got[:3] == 0).all()
    assert (got[3] != 0).all()


@pytest.mark.parametrize("pooler", POOLERS)
def test_sizes_below_one_are_refused(pooler: type) -> None:
    with pytest.raises(ValueError, match="output_size and sampling_ratio must be at least 1, got 0 and 2"):
        pooler(output_size=0, sampling_ratio=2)
    with pytest.raises(ValueError, match="got 7 and 0"):
        pooler(output_size=7, sampling_ratio=0)
