from __future__ import annotations

import math

import pytest
import torch

from sparse_rcnn.deformable_detr.sine_encoding import CellCentreSineEncoding


def naive(num_valid_rows: int, num_valid_columns: int, row: int, column: int, num_channels: int) -> list[float]:
    """The encoding of a valid cell: y first, then x."""
    numbers = []
    half = num_channels // 2
    for index, count in ((row, num_valid_rows), (column, num_valid_columns)):
        angle = (index + 0.5) / (count + 1e-6) * 2 * math.pi
        for i in range(half):
            scaled = angle / 10000 ** (2 * (i // 2) / half)
            numbers.append(math.cos(scaled) if i % 2 else math.sin(scaled))
    return numbers


def test_valid_cells_against_plain_loops() -> None:
    mask = torch.ones(2, 4, 5, dtype=torch.bool)
    mask[0, :3, :5] = False
    mask[1, :4, :2] = False
    got = CellCentreSineEncoding(hidden_dim=12, temperature=10000)(mask)
    assert got.shape == (2, 12, 4, 5)
    for n, (height, width) in enumerate([(3, 5), (4, 2)]):
        for row in range(height):
            for column in range(width):
                wanted = naive(height, width, row, column, 12)
                assert got[n, :, row, column].tolist() == pytest.approx(wanted, abs=1e-5)


def test_padding_is_finite() -> None:
    mask = torch.ones(1, 3, 3, dtype=torch.bool)
    mask[:, :1, :1] = False
    assert CellCentreSineEncoding(hidden_dim=8, temperature=10000)(mask).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 6}, "hidden_dim must be a positive multiple of 4, got 6"),
        ({"temperature": 1}, "temperature must be above 1"),
    ],
)
def test_rejected(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellCentreSineEncoding(**({"hidden_dim": 8, "temperature": 10000} | changes))
