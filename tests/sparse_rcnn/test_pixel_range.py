"""The names of pixel ranges, and where they are kept with weights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sparse_rcnn.errors import UserError
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.pixel_range import checked_pixel_range
from tests.support.detectors import small_card


@pytest.mark.parametrize("value", ["auto", "uint8", "uint12", "uint16", "float", (0, 4095), (-1.5, 2)])
def test_names_and_two_numbers(value: Any) -> None:
    assert checked_pixel_range(value) == value
    card = replace(small_card(), pixel_range=value)
    assert ModelCard.from_json(card.to_json()) == card


@pytest.mark.parametrize(
    "value", ["uint7", "", None, 8, [1], [1, 2, 3], [2, 2], [3, 2], [0, float("nan")], [0, True], ["0", "1"]]
)
def test_others_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="pixel_range must be auto, uint8, uint12, uint16, float or two numbers"):
        checked_pixel_range(value)
    fields = json.loads(small_card().to_json()) | {"pixel_range": value}
    with pytest.raises(ValueError, match="pixel_range must be"):
        ModelCard.from_json(json.dumps(fields))


def test_the_usual_range_is_not_written_so_that_earlier_versions_read_the_card() -> None:
    text = small_card().to_json()
    assert set(json.loads(text)) == {"architecture", "categories", "short_side", "max_long_side"}
    assert ModelCard.from_json(text).pixel_range == "auto"
