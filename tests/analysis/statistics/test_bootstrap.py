"""The bootstrap over images, Holm's correction and Welch's test: by hand, against scipy, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.average_precision import AveragePrecision
from analysis.statistics.bootstrap import difference, holm, metrics_of, resample, welch
from analysis.statistics.coco_columns import FoundBoxes, GroundTruth
from analysis.statistics.matching import match


def random_set(rng: np.random.Generator, num_images: int, quality: float) -> tuple[GroundTruth, list[FoundBoxes]]:
    """One box an image, and two detectors that each miss some of them and shift the others; the second is better."""
    box = np.array([10.0, 10.0, 50.0, 50.0])
    images = np.arange(num_images)
    zeros = np.zeros(num_images, np.int64)
    truth = GroundTruth(
        images, np.array([1]), ("x",), images, zeros, np.tile(box, (num_images, 1)), np.full(num_images, 2500.0),
        zeros.astype(bool),
    )  # fmt: skip
    hard = rng.random(num_images)  # an image hard for one is hard for the other: pairing matters
    detectors = []
    for skill in (0.5, 0.5 + quality):
        shift = np.where(hard + 0.3 * rng.normal(size=num_images) < skill, 2.0, 40.0)
        boxes = np.tile(box, (num_images, 1))
        boxes[:, 0] += shift
        detectors.append(FoundBoxes(images, zeros, boxes, rng.random(num_images)))
    return truth, detectors


def precisions(truth: GroundTruth, detectors: list[FoundBoxes]) -> list[list[AveragePrecision]]:
    return [[AveragePrecision(match(truth, own))] for own in detectors]


def test_resamples_are_paired_and_repeatable() -> None:
    truth, detectors = random_set(np.random.default_rng(0), 40, 0.2)
    rows = precisions(truth, [*detectors, detectors[0]])
    draws = resample(rows, 20, seed=1)
    assert draws.shape == (20, 3, 3)
    np.testing.assert_array_equal(draws[:, 0], draws[:, 2])
    assert np.ptp(draws[:, 0, 0]) > 0
    np.testing.assert_array_equal(draws, resample(rows, 20, seed=1))
    assert (draws != resample(rows, 20, seed=2)).any()
    # The other rows make no difference to what is drawn.
    np.testing.assert_array_equal(draws[:, :2], resample(rows[:2], 20, seed=1))


def test_metrics_are_means_over_seeds() -> None:
    truth, detectors = random_set(np.random.default_rng(0), 40, 0.2)
    (first,), (second,) = precisions(truth, detectors)
    np.testing.assert_allclose(metrics_of([first, second]), (metrics_of([first]) + metrics_of([second])) / 2)
    assert metrics_of([first]).tolist() == [first().mean(), first()[0], first()[5]]


def test_interval_and_p_value_by_hand() -> None:
    draws = np.arange(1.0, 100.0)  # 1, 2, ... 99
    result = difference(50.0, draws, 0.9)
    assert (result.low, result.high) == pytest.approx((5.9, 94.1))
    assert result.p_value == pytest.approx(2 / 100)
    result = difference(50.0, draws - 3, 0.9)  # -2 to 96: three are at most 0
    assert result.p_value == pytest.approx(8 / 100)
    assert difference(0.0, np.zeros(9)).p_value == 1.0
    assert difference(0.0, np.zeros(9)).low == 0.0
    assert np.isnan(difference(0.0, np.array([np.nan])).p_value)
    assert difference(50.0, np.append(draws, np.nan), 0.9) == difference(50.0, draws, 0.9)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([0.02, float("nan"), 0.03])
    assert adjusted[0] == adjusted[2] == pytest.approx(0.04)
    assert np.isnan(adjusted[1])


def test_welch_by_hand() -> None:
    # Variances 4 / 3 and 0.5 / 2; (19/12)^2 / ((4/3)^2 / 2 + (1/4)^2 / 1) degrees of freedom.
    result = welch([60.0, 62.0, 64.0], [50.0, 51.0])
    assert result is not None
    error, freedom = np.sqrt(19 / 12), (19 / 12) ** 2 / (8 / 9 + 1 / 16)
    margin = stats.t.ppf(0.975, freedom) * error
    assert (result.difference, result.low, result.high) == pytest.approx((11.5, 11.5 - margin, 11.5 + margin))
    assert result.p_value == pytest.approx(2 * stats.t.sf(11.5 / error, freedom))
    assert welch([1.0], [1.0, 2.0]) is None
    assert welch([1.0, 1.0], [2.0, 2.0]) is None


def coverage(num_sets: int, num_images: int, num_resamples: int, quality: float) -> tuple[float, float]:
    """How often a 90 % interval covers the true difference, and how often p < 0.1."""
    generator = np.random.default_rng(5)
    truth_set, detectors = random_set(generator, 40_000, quality)
    a, b = (metrics_of(row) for row in precisions(truth_set, detectors))
    true = float(b[0] - a[0])
    covered = rejected = 0
    for _ in range(num_sets):
        rows = precisions(*random_set(generator, num_images, quality))
        draws = resample(rows, num_resamples, seed=int(generator.integers(2**31)))
        estimate = metrics_of(rows[1])[0] - metrics_of(rows[0])[0]
        result = difference(float(estimate), draws[:, 1, 0] - draws[:, 0, 0], 0.9)
        covered += result.low <= true <= result.high
        rejected += result.p_value < 0.1
    return covered / num_sets, rejected / num_sets


def test_coverage_of_a_few() -> None:
    covered, rejected = coverage(num_sets=30, num_images=80, num_resamples=60, quality=0.25)
    assert covered >= 0.7  # of 30 at 0.9: below with a chance of 0.1 %
    assert rejected >= 0.7, "so large a difference is seen"


@pytest.mark.slow
@pytest.mark.parametrize("quality", [0.0, 0.1])
def test_coverage(quality: float) -> None:
    covered, rejected = coverage(num_sets=250, num_images=200, num_resamples=200, quality=quality)
    assert 0.84 <= covered <= 0.96  # three standard errors of 0.019
    if quality == 0:
        assert 0.04 <= rejected <= 0.16
