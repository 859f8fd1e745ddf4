"""Drawing of shapes: their areas, distances, masks and backgrounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparse_rcnn.data.shapes_render import SHAPES, Pose, paint_background, paint_object, patch


@pytest.mark.parametrize(
    ("name", "unit_area"),  # by hand, for half extents of 1
    [
        ("disc", math.pi),
        ("square", 4.0),
        ("triangle", 0.5 * 2 * 1.9),
        ("plus", 2 * 0.72 * 2 - 0.72**2),
        ("star", 10 * 0.5 * 1.0 * 0.45 * math.sin(math.pi / 5)),
        ("ring", math.pi * (1 - 0.55**2)),
        ("arrow", 0.5 * 1.8 * 0.9 + 1.1 * 0.7),
        ("bowtie", 2 * (1.8 + 0.3) / 2),
        ("corner", 4.0 - 1.25**2),
    ],
)
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.9])
def test_area_of_a_shape_whatever_its_rotation_and_stretching(name: str, unit_area: float, angle: float) -> None:
    mask = SHAPES[name](patch(Pose((70.3, 64.8), (50.0, 35.0), angle))) < 0
    assert mask.sum() == pytest.approx(unit_area * 50 * 35, rel=0.01)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert not border.any()  # the window holds the whole shape


@pytest.mark.parametrize("name", list(SHAPES))
def test_distance_is_negative_inside_and_in_pixels(name: str) -> None:
    distance = SHAPES[name](patch(Pose((40.0, 40.0), (30.0, 24.0), 0.4)))
    row_steps, column_steps = np.gradient(distance)
    near = np.abs(distance) < 1.5
    # One pixel on, one pixel farther (corners and the middle of thin parts apart).
    assert np.median(np.hypot(row_steps, column_steps)[near]) == pytest.approx(1.0, abs=0.05)


def test_square_distance_by_hand() -> None:
    at = patch(Pose((10.0, 10.0), (4.0, 4.0), 0.0))
    distance = SHAPES["square"](at)
    column, row = (int(np.flatnonzero(axis.ravel() == 10.5)[0]) for axis in (at.x, at.y))
    assert distance[row, column] == pytest.approx(-3.5)
    assert distance[row, column + 4] == pytest.approx(0.5)  # centre at 14.5, edge at 14
    assert distance[row + 4, column + 4] == pytest.approx(math.sqrt(0.5))


def test_painting_covers_the_mask_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for name in SHAPES:
        pose = Pose((50.0, 12.0), (20.0, 17.0), float(rng.uniform(0, 6)))  # sticks out at the top
        at, canvas = patch(pose), np.full((64, 64, 3), 128.0, np.float32)
        distance = SHAPES[name](at)
        paint_object(canvas, rng, at, distance, low_contrast=False, textured=False, hue=None)
        x0, y0, _, _ = pose.window_xyxy
        whole = np.full((200, 200), np.inf)  # the image with a margin of 64 around it
        whole[64 + y0 : 64 + y0 + len(distance), 64 + x0 : 64 + x0 + distance.shape[1]] = distance
        in_image, changed = whole[64:128, 64:128], np.abs(canvas - 128).max(axis=2) > 10
        assert changed[in_image < 0].all()
        assert not changed[in_image >= 0.5].any()


def test_background_is_more_cluttered_with_distractors() -> None:
    def edges(seed: int, max_distractors: int) -> float:
        canvas = paint_background(np.random.default_rng(seed), 64, max_distractors, 0.5)
        assert canvas.shape == (64, 64, 3)
        assert canvas.dtype == np.float32
        assert 0 <= canvas.min() <= canvas.max() <= 255
        return float(np.abs(np.diff(canvas, axis=0)).max())

    assert np.mean([edges(s, 8) for s in range(20)]) > 1.5 * np.mean([edges(s, 0) for s in range(20)])
