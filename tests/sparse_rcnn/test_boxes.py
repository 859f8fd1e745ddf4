"""Box formats, generalised IoU and deltas, against hand values and plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.boxes import apply_deltas, cxcywh_to_xyxy, generalized_iou, whwh, xyxy_to_cxcywh
from tests.support import naive


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 100 - 20
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 80 + 1
    return torch.cat((low, low + side), 1)


def test_formats_by_hand_and_there_and_back() -> None:
    cxcywh = torch.tensor([[50.0, 40.0, 20.0, 10.0]])
    xyxy = torch.tensor([[40.0, 35.0, 60.0, 45.0]])
    assert torch.equal(cxcywh_to_xyxy(cxcywh), xyxy)
    assert torch.equal(xyxy_to_cxcywh(xyxy), cxcywh)
    assert whwh(torch.tensor([[30, 40]])).tolist() == [[40.0, 30.0, 40.0, 30.0]]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),  # the hull is the union
        ((0, 0, 10, 10), (20, 0, 30, 10), -100 / 300),  # apart: minus the part of the hull that is empty
        ((0, 0, 10, 10), (5, 5, 15, 15), 25 / 175 - 50 / 225),
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((5, 5, 5, 5), (0, 0, 10, 10), 0.0),  # a point inside
        ((20, 0, 20, 10), (0, 0, 10, 10), -100 / 200),  # a line outside
        (
            (10, 10, 0, 0),
            (0, 0, 10, 10),
            1.0,
        ),  # both sides negative: areas count double, 0 - (100 - 200) / 100
    ],
)
def test_generalized_iou_by_hand(a: tuple[float, ...], b: tuple[float, ...], expected: float) -> None:
    got = generalized_iou(torch.tensor([a], dtype=torch.float32), torch.tensor([b], dtype=torch.float32))
    assert got.item() == pytest.approx(expected, abs=1e-6)
    assert naive.giou(a, b) == pytest.approx(expected, abs=1e-12)


def test_generalized_iou_equals_the_naive_one_pairwise() -> None:
    a, b = random_boxes(12, 0), random_boxes(9, 1)
    a[0], a[1] = a[0, [2, 1, 0, 3]], a[1, [2, 3, 0, 1]]  # one side negative, both sides negative
    got = generalized_iou(a[:, None], b[None])
    wanted = torch.tensor([[naive.giou(p, q) for q in b.tolist()] for p in a.tolist()], dtype=torch.float64)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_generalized_iou_is_bounded_and_symmetric() -> None:
    a, b = random_boxes(200, 2), random_boxes(200, 3)
    got = generalized_iou(a, b)
    assert ((got > -1) & (got <= 1)).all()
    torch.testing.assert_close(got, generalized_iou(b, a), rtol=1e-12, atol=0)


def test_generalized_iou_gradient() -> None:
    a, b = random_boxes(6, 4).requires_grad_(), random_boxes(6, 5).requires_grad_()
    assert torch.autograd.gradcheck(generalized_iou, (a, b))


def test_deltas_by_hand() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # 20 wide, 40 high, centre (20, 40)
    assert torch.equal(apply_deltas(torch.zeros(1, 4), box), box)
    moved = apply_deltas(torch.tensor([[1.0, -1.0, 0.0, 0.0]]), box)  # half a width, half a height
    assert moved.tolist() == [[20.0, 0.0, 40.0, 40.0]]
    grown = apply_deltas(torch.tensor([[0.0, 0.0, math.log(2), math.log(0.5)]]), box)
    torch.testing.assert_close(grown, torch.tensor([[0.0, 30.0, 40.0, 50.0]]))


def test_deltas_of_size_are_clamped_above_and_not_below() -> None:
    box = torch.tensor([[-8.0, -8.0, 8.0, 8.0]], dtype=torch.float64)
    limit = math.log(100_000 / 16)
    for delta in (limit, limit + 1e-9, 10.0, 100.0, math.inf):
        x1, y1, x2, y2 = apply_deltas(torch.tensor([[0, 0, delta, delta]], dtype=torch.float64), box)[0].tolist()
        assert (x2 - x1, y2 - y1) == pytest.approx((100_000, 100_000), rel=1e-12)
    just_below = apply_deltas(torch.tensor([[0, 0, limit - 0.1, 0.0]], dtype=torch.float64), box)[0]
    assert (just_below[2] - just_below[0]).item() == pytest.approx(100_000 * math.exp(-0.1), rel=1e-12)
    tiny = apply_deltas(torch.tensor([[0, 0, -30.0, -3.0]], dtype=torch.float64), box)[0]
    assert (tiny[2] - tiny[0]).item() == pytest.approx(16 * math.exp(-30), rel=1e-6)


def test_deltas_equal_the_naive_ones_also_for_inverted_and_empty_boxes() -> None:
    boxes = torch.cat((random_boxes(20, 6), torch.tensor([[5.0, 5, 5, 5], [9, 1, 3, 7], [9, 7, 3, 1]]).double()))
    deltas = 4 * torch.randn(len(boxes), 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    deltas[:3, 2] = 12.0  # beyond the clamp
    wanted = [naive.apply_deltas(d, b) for d, b in zip(deltas.tolist(), boxes.tolist(), strict=True)]
    got = apply_deltas(deltas, boxes)
    torch.testing.assert_close(got, torch.tensor(wanted, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_deltas_gradient_and_none_beyond_the_clamp() -> None:
    boxes = random_boxes(5, 8).requires_grad_()
    deltas = torch.randn(5, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(apply_deltas, (deltas, boxes))
    clamped = torch.tensor([[0.1, 0.2, 20.0, 0.3]], dtype=torch.float64, requires_grad=True)
    apply_deltas(clamped, random_boxes(1, 10)).pow(2).sum().backward()
    assert clamped.grad is not None
    assert (clamped.grad[0] != 0).tolist() == [True, True, False, True]
