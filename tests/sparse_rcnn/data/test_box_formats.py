"""Boxes in another format than COCO's are recognised, and boxes that are merely odd are not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sparse_rcnn.data.box_formats import percent_note, wrong_format


def good_boxes(number: int = 200, height: int = 480, width: int = 640) -> tuple[np.ndarray, np.ndarray]:
    """Random boxes within images of one size."""
    rng = np.random.default_rng(0)
    sizes = np.tile([height, width], (number, 1))
    extent = rng.uniform(0.05, 0.5, (number, 2)) * [width, height]
    start = rng.uniform(0, 1, (number, 2)) * ([width, height] - extent)
    return np.concatenate((start, extent), axis=1), sizes


FORMATS = {
    "x1, y1, x2, y2": lambda b, s: np.concatenate((b[:, :2], b[:, :2] + b[:, 2:]), axis=1),
    "fractions of the image size": lambda b, s: b / s[:, [1, 0, 1, 0]],
    r"y, x, height, width \(swapped axes\)": lambda b, s: b[:, [1, 0, 3, 2]],
    "y1, x1, y2, x2": lambda b, s: np.concatenate((b[:, :2], b[:, :2] + b[:, 2:]), axis=1)[:, [1, 0, 3, 2]],
    "the centre, width and height": lambda b, s: np.concatenate((b[:, :2] + b[:, 2:] / 2, b[:, 2:]), axis=1),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_format_is_named(name: str) -> None:
    boxes, sizes = good_boxes()
    found = wrong_format(FORMATS[name](boxes, sizes), sizes)
    assert found is not None
    assert re.search(f"look like {name}", found.message), found.message
    assert found.suspects.any()


def test_widths_and_heights_of_images_swapped() -> None:
    boxes, sizes = good_boxes()
    found = wrong_format(boxes, sizes[:, ::-1])
    assert found is not None
    assert "swapped" in found.message


def test_pixels_of_another_size_are_no_known_format() -> None:
    boxes, sizes = good_boxes()
    found = wrong_format(boxes * 4, sizes)
    assert found is not None
    assert "not x, y, width, height in pixels of the images of these sizes" in found.message


def test_good_and_odd_boxes_are_left_alone() -> None:
    boxes, sizes = good_boxes()
    assert wrong_format(boxes, sizes) is None
    over = boxes.copy()
    over[:60] += [0, 200, 0, 0]  # a third reaches over the lower border, as people behind a fence may
    assert wrong_format(over, sizes) is None
    assert wrong_format(boxes[:0], sizes[:0]) is None
    small = boxes.copy()
    small[:80, 2:] = 0.7  # boxes below a pixel of which none leaves its image
    assert wrong_format(small, sizes) is None


@pytest.mark.parametrize("number", [1, 2])
def test_fractions_are_recognised_in_the_smallest_set(number: int) -> None:
    boxes, sizes = good_boxes(number)
    found = wrong_format(boxes / sizes[:, [1, 0, 1, 0]], sizes)
    assert found is not None
    assert "fractions of the image size" in found.message
    assert wrong_format(boxes, sizes) is None
    assert wrong_format(boxes, np.zeros_like(sizes)) is None  # nobody knows the images' sizes
    one_of_six = np.tile([10.0, 10, 20, 20], (6, 1))
    one_of_six[0] = [19, 27, 15, 18]
    assert wrong_format(one_of_six, np.tile([40, 60], (6, 1))) is None


def test_percentages_are_worth_a_word() -> None:
    boxes, sizes = good_boxes()
    note = percent_note(boxes * 100 / sizes[:, [1, 0, 1, 0]], sizes)
    assert note is not None
    assert "percentages" in note
    assert percent_note(boxes, sizes) is None
