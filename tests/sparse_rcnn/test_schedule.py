"""Warm-up and milestones of the learning rate, against the paper's and by hand."""

from __future__ import annotations

from typing import Any

import pytest

from sparse_rcnn.schedule import WarmupMultiStep

PAPER: dict[str, Any] = {
    "length": 270_000,
    "unit": "steps",
    "milestones": [210_000 / 270_000, 250_000 / 270_000],
    "gamma": 0.1,
    "num_warmup_steps": 1000,
    "warmup_factor": 0.01,
}


def schedule(**changes: Any) -> WarmupMultiStep:
    return WarmupMultiStep(**(PAPER | changes))


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 2.5e-7),
        (1, 2.7475e-7),
        (500, 1.2625e-5),
        (999, 2.497525e-5),
        (1000, 2.5e-5),
        (1001, 2.5e-5),
        (209_999, 2.5e-5),
        (210_000, 2.5e-6),
        (249_999, 2.5e-6),
        (250_000, 2.5e-7),
        (269_999, 2.5e-7),
    ],
)
def test_the_papers_rates(step: int, lr: float) -> None:
    assert 2.5e-5 * schedule().factor(step, num_steps_per_epoch=7393) == pytest.approx(lr, rel=1e-12)


def test_epochs_count_steps_of_the_data_set() -> None:
    s = schedule(length=36, unit="epochs", milestones=[27 / 36, 33 / 36], num_warmup_steps=10)
    assert s.num_steps(num_steps_per_epoch=50) == 1800
    factors = [s.factor(step, 50) for step in (1349, 1350, 1649, 1650)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])
    assert s.num_steps(num_steps_per_epoch=7) == 252
    assert s.factor(188, 7) == 1
    assert s.factor(189, 7) == pytest.approx(0.1)


def test_milestones_are_fractions_so_a_shorter_training_keeps_its_shape() -> None:
    short = schedule(length=2700, num_warmup_steps=10)
    assert [short.factor(step, 1) for step in (2099, 2100, 2499, 2500)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_no_milestones_no_warmup_and_a_milestone_at_the_end() -> None:
    assert {schedule(milestones=[], num_warmup_steps=0).factor(s, 1) for s in range(0, 270_000, 9999)} == {1.0}
    assert schedule(milestones=[1.0]).factor(269_999, 1) == 1


def test_warmup_continues_through_a_milestone() -> None:
    s = schedule(length=100, milestones=[0.5], num_warmup_steps=100, warmup_factor=0.1)
    assert s.factor(50, 1) == pytest.approx(0.1 * (0.1 * 0.5 + 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": "iterations"}, "unit must be 'steps' or 'epochs', got 'iterations'"),
        ({"length": 0}, "length must be at least 1, got 0"),
        (
            {"milestones": [0.9, 0.8]},
            r"milestones must be ascending fractions of the length, got \[0.9, 0.8\]",
        ),
        ({"milestones": [210_000]}, "milestones must be ascending fractions"),
        ({"milestones": [0.0]}, "milestones must be ascending fractions"),
        ({"milestones": [float("nan")]}, "milestones must be ascending fractions"),
        ({"num_warmup_steps": -1}, "num_warmup_steps must not be negative, got -1"),
        ({"warmup_factor": 0.0}, "warmup_factor must be above 0 and at most 1, got 0.0"),
        ({"warmup_factor": 1.5}, "warmup_factor must be above 0 and at most 1, got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**changes)
