"""Differences between configurations: found key by key, and shortened for a reader."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sparse_rcnn.rundir.changes import ABSENT, Change, changes, flatten, shorten, texts


def test_differences_are_listed_by_dotted_key() -> None:
    a = {"model": {"num_stages": 3, "strides": [4, 8], "name": "x"}, "old": {"k": None}, "same": 1}
    b = {"model": {"num_stages": 6, "strides": [4, 16, 32], "name": "x"}, "new": {}, "same": 1.0}
    assert texts(changes(a, b)) == [
        "model.num_stages: 3 -> 6",
        "model.strides[1]: 8 -> 16",
        "model.strides[2]: (absent) -> 32",
        "new: (absent) -> {}",
        "old.k: null -> (absent)",
    ]
    assert changes(a, copy.deepcopy(a)) == []


def test_configurations_are_flattened_to_scalars() -> None:
    config = {"a": {"b": 1, "c": {}}, "d": [1, [2, {"e": 3}], ()], "f": None}
    assert flatten(config) == {"a.b": 1, "a.c": {}, "d[0]": 1, "d[1][0]": 2, "d[1][1].e": 3, "d[2]": (), "f": None}
    assert flatten({"x": 1}, "node") == {"node.x": 1}
    assert flatten([1, 2], "node") == {"node[0]": 1, "node[1]": 2}
    assert flatten({}, "node") == {"node": {}}
    assert flatten({}) == {}


def test_lists_of_scalars_may_stay_whole() -> None:
    config = {"betas": [0.9, 0.999], "stages": [{"width": 8}, {"width": 16}], "grid": [[1, 2], [3]], "none": []}
    assert flatten(config, whole_lists=True) == {
        "betas": [0.9, 0.999],
        "stages[0].width": 8,
        "stages[1].width": 16,
        "grid[0]": [1, 2],
        "grid[1]": [3],
        "none": [],
    }


@pytest.mark.parametrize(
    ("full", "shown"),
    [
        ([("model.num_stages", 6, 1), ("num_stages", 6, 1)], ["num_stages: 6 -> 1"]),
        ([("model.num_stages", 6, 2), ("num_stages", 6, 1)], ["model.num_stages: 6 -> 2", "num_stages: 6 -> 1"]),
        (
            [("a.head._target_", "x.Old", "New"), ("a.head.j", 1, ABSENT), ("a.head.k", ABSENT, 2), ("a.b", 1, 2)],
            ["head: Old -> New(k=2)", "a.b: 1 -> 2"],
        ),
        ([("a._target_", "x.Old", "New"), ("a.b.c", ABSENT, 2), ("a.w", ABSENT, 3)], ["a: Old -> New(w=3)"]),
        ([("crop", None, ABSENT), ("crop._target_", ABSENT, "x.Crop")], ["crop: none -> Crop"]),
    ],
)
def test_what_follows_from_another_change_is_shown_once(full: list[tuple[str, Any, Any]], shown: list[str]) -> None:
    assert texts(shorten([Change(*change) for change in full])) == shown


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ({"m": [1, 2, 5]}, {"m": [3, 4]}, ["m: [1, 2, 5] -> [3, 4]"]),
        ({"m": [1, 2]}, {"m": [1, 2, 3]}, ["m[2]: (absent) -> 3"]),
        ({"m": [0.5, 0.65, 0.75]}, {"m": [0.6, 0.7, 0.75]}, ["m[0]: 0.5 -> 0.6", "m[1]: 0.65 -> 0.7"]),
        ({"m": [1, 2]}, {"m": [2, 1]}, ["m: [1, 2] -> [2, 1]"]),
        ({"a": {"_target_": "x.Old"}}, {"a": {"_target_": "x.New", "w": [3, 4]}}, ["a: Old -> New(w=[3, 4])"]),
        ({"m": [{"k": 1}]}, {"m": [{"k": 2}]}, ["m[0].k: 1 -> 2"]),
        ({"m": [1]}, {"m": None}, ["m: [1] -> null"]),
    ],
)
def test_lists_that_share_no_item_are_one_change(old: dict[str, Any], new: dict[str, Any], shown: list[str]) -> None:
    assert texts(shorten(changes(old, new))) == shown
