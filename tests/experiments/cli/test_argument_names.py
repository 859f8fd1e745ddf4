"""Arguments in messages, under the names that a user types."""

from __future__ import annotations

import pytest

from experiments.cli.argument_names import as_typed


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("set skip_unreadable=True.", "set data.skip_unreadable=true."),
        ("give a larger max_megapixels, or cut", "give a larger input.max_megapixels, or cut"),
        ("pixel_range='uint7': one of", "input.pixel_range='uint7': one of"),
        ("data.skip_unreadable=true leaves", "data.skip_unreadable=true leaves"),
        ("/data/pixel_range/a.png is", "/data/pixel_range/a.png is"),
        ("pixel_range/a.png is", "pixel_range/a.png is"),
        ("pixel_range.json: no", "pixel_range.json: no"),
        ("my pixel_range-2 is", "my pixel_range-2 is"),
    ],
)
def test_keys_take_the_place_of_arguments_and_paths_stay(message: str, expected: str) -> None:
    assert as_typed(message) == expected


def test_an_option_needs_no_value() -> None:
    assert as_typed("or give skip_unreadable=True to", {"skip_unreadable": "--skip-unreadable"}) == (
        "or give --skip-unreadable to"
    )
