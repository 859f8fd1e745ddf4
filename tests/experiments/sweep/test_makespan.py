"""Time of all rows on some GPUs."""

from __future__ import annotations

import itertools
import random

import pytest

from experiments.sweep.makespan import makespan, projection


@pytest.mark.parametrize(
    ("hours", "num_slots", "expected"),
    [
        ([], 2, 0.0),
        ([3.0], 4, 3.0),
        ([1.0, 2.0, 3.0], 1, 6.0),
        ([5.0, 4.0, 3.0, 2.0, 2.0], 2, 9.0),  # 5 + 2 + 2 beside 4 + 3
    ],
)
def test_by_hand(hours: list[float], num_slots: int, expected: float) -> None:
    assert makespan(hours, num_slots) == expected


def test_within_four_thirds_of_the_best_order() -> None:
    rng = random.Random(0)
    for _ in range(30):
        hours = [rng.choice([1.0, 2.0, 3.5, 7.0]) for _ in range(6)]
        best = min(
            max(sum(h for h, slot in zip(hours, slots, strict=True) if slot == s) for s in range(3))
            for slots in itertools.product(range(3), repeat=6)
        )
        assert best <= makespan(hours, 3) <= best * 4 / 3


def test_the_line_of_a_suite() -> None:
    assert projection([800.0, 400.0, 400.0]) == (
        "The 3 distinct rows of known length, one seed: 1600 GPU-hours. With 8 GPUs a row and the longest rows first: "
        "8.3 days on 8 GPUs, 4.2 days on 32 GPUs, 4.2 days on 128 GPUs; the longest row alone 4.2 days."
    )
    assert projection([20.0] * 6).startswith("The 6 distinct rows of known length, one seed: 120 GPU-hours")
    assert projection([1.0, 2.0]) == ""
