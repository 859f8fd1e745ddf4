"""Rows of class layers."""

from __future__ import annotations

import pytest

from sparse_rcnn.class_rows import ClassRows


def test_rows_by_hand() -> None:
    one = ClassRows()
    assert [one.of_class(k, 3) for k in range(3)] == [[0], [1], [2]]
    assert one.of_none(3) == []
    no_object_last = ClassRows(num_after=1)
    assert (no_object_last.of_class(0, 3), no_object_last.of_none(3)) == ([0], [3])
    background_first = ClassRows(num_before=1, rows_per_class=4)
    assert (background_first.of_class(0, 2), background_first.of_none(2)) == ([4, 5, 6, 7], [0, 1, 2, 3])
    anchors = ClassRows(num_groups=3)
    assert (anchors.of_class(1, 2), anchors.of_none(2)) == ([1, 3, 5], [])


@pytest.mark.parametrize("layout", [ClassRows(), ClassRows(num_after=1), ClassRows(1, 2, 3, 4), ClassRows(1, 0, 2, 1)])
def test_every_row_belongs_to_one_class_or_none(layout: ClassRows) -> None:
    rows = layout.of_none(5) + [row for label in range(5) for row in layout.of_class(label, 5)]
    assert sorted(rows) == list(range(layout.num_rows(5)))
    assert layout.num_classes(layout.num_rows(5)) == 5
