"""DETR's sine encoding, against its formula in loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sparse_rcnn.detr.sine_encoding import MaskSineEncoding


def mask_of(sizes: list[tuple[int, int]], height: int, width: int) -> Tensor:
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for m, (h, w) in zip(mask, sizes, strict=True):
        m[:h, :w] = False
    return mask


def naive(size: tuple[int, int], y: int, x: int, hidden_dim: int, temperature: float) -> list[float]:
    """One valid cell of an image of ``size`` cells."""
    half = hidden_dim // 2
    values = []
    for count, total in ((y + 1, size[0]), (x + 1, size[1])):
        v = count / (total + 1e-6) * 2 * math.pi
        for i in range(half):
            angle = v / temperature ** (2 * (i // 2) / half)
            values.append(math.cos(angle) if i % 2 else math.sin(angle))
    return values


@pytest.mark.parametrize(("hidden_dim", "temperature"), [(4, 10000.0), (16, 10000.0), (12, 20.0)])
def test_valid_cells_equal_the_formula(hidden_dim: int, temperature: float) -> None:
    sizes = [(4, 5), (2, 3), (1, 5)]
    got = MaskSineEncoding(hidden_dim, temperature)(mask_of(sizes, 4, 5))
    assert got.shape == (3, hidden_dim, 4, 5)
    assert got.dtype == torch.float32
    for n, (h, w) in enumerate(sizes):
        for y in range(h):
            for x in range(w):
                wanted = torch.tensor(naive((h, w), y, x, hidden_dim, temperature))
                torch.testing.assert_close(got[n, :, y, x], wanted, rtol=0, atol=2e-6)


def test_a_place_relative_to_the_image_does_not_depend_on_its_padding() -> None:
    encoding = MaskSineEncoding(8, 10000.0)
    alone = encoding(mask_of([(2, 3)], 2, 3))
    padded = encoding(mask_of([(2, 3)], 5, 7))
    torch.testing.assert_close(padded[..., :2, :3], alone, rtol=0, atol=0)


def test_the_padding_is_finite() -> None:
    # Beyond the last column the counts are 0, and so is what they are divided by but for 1e-6.
    assert MaskSineEncoding(8, 10000.0)(mask_of([(1, 1)], 3, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("hidden_dim", "temperature", "message"),
    [(6, 10000.0, "hidden_dim must be .* got 6"), (0, 10000.0, "hidden_dim"), (8, 1.0, "temperature must be above 1")],
)
def test_rejected_arguments(hidden_dim: int, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskSineEncoding(hidden_dim, temperature)
