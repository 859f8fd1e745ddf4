"""Classes of one file among those of another."""

from __future__ import annotations

from typing import Any

import pytest

from sparse_rcnn.data.label_space import categories_in_order, match_categories
from sparse_rcnn.errors import DataError


def categories(**ids: int) -> list[dict[str, Any]]:
    return [{"id": category_id, "name": name} for name, category_id in ids.items()]


TRAIN = categories(cat=1, dog=2, emu=5)


@pytest.mark.parametrize(
    ("val", "places", "ids"),
    [
        (categories(cat=1, dog=2, emu=5), [0, 1, 2], [1, 2, 5]),
        (categories(dog=2), [1], [1, 2, 5]),  # only the classes that occur
        (categories(dog=0, cat=1, emu=2), [1, 0, 2], [1, 0, 2]),  # numbered differently
        (categories(emu=1), [2], [2, 3, 1]),  # the id of cat is taken, that of dog by then too
        (categories(Cat=1, DOG=7), [0, 1], [1, 7, 5]),
    ],
)
def test_classes_are_matched_by_id_and_name_or_by_name(
    val: list[dict[str, Any]], places: list[int], ids: list[int]
) -> None:
    assert match_categories(val, TRAIN, ("val", "train")) == places
    ordered = categories_in_order(TRAIN, val, places)
    assert [category["name"] for category in ordered] == ["cat", "dog", "emu"]
    assert [category["id"] for category in ordered] == ids


def test_equal_names_are_told_apart_by_equal_ids() -> None:
    twins = [{"id": 0, "name": "fish"}, {"id": 1, "name": "fish"}]
    assert match_categories(twins[1:], twins, ("val", "train")) == [1]
    with pytest.raises(
        DataError, match=r"val and train number .* 'fish' is that of several categories: give each a na"
    ):
        match_categories([{"id": 7, "name": "fish"}], twins, ("val", "train"))


def test_classes_that_differ_are_named() -> None:
    with pytest.raises(
        DataError, match=r"'wolf' of the first is not in the second \(which has 'dog', 'emu' in their place"
    ):
        match_categories(categories(cat=1, wolf=2), TRAIN, ("val", "train"))
