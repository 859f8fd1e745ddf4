"""Differences between configurations."""

from __future__ import annotations

import copy
from typing import Any

from sparse_rcnn.rundir.changes import changes, texts

CONFIG: dict[str, Any] = {
    "seed": 0,
    "experiment_name": "baseline",
    "runs_root": "runs",
    "model": {"_target_": "x.Model", "num_stages": 6, "dropout": 0.0, "strides": [4, 8]},
    "data": {
        "root": "/a",
        "num_workers": 2,
        "num_classes": 3,
        "train": {"annotations": "a.json", "images": "i"},
    },
    "train": {
        "device": "cpu",
        "num_micro_batches": 1,
        "batch_size": 16,
        "checkpoint_every": 5,
        "log_every": 1,
    },
    "eval": {"every_epochs": 1, "backend": "hotcoco", "batch_size": 4},
    "log": {"progress": True, "writers": {}},
}


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
    assert changes(CONFIG, copy.deepcopy(CONFIG)) == []
