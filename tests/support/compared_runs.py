"""Evaluated runs to compare: seeds of a good row and of a bad one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparse_rcnn.rundir.reader import Run
from tests.support.coco_numbers import random_coco
from tests.support.runs import make_evaluated_run

Suite = dict[str, Path]


def make_compared_runs(folder: Path) -> Suite:
    """Two seeds of a good row and of a bad one, and one run of a third that is as the first."""
    coco, found = random_coco(0)
    rng = np.random.default_rng(0)
    fewer = [[record for record in found if rng.random() < 0.4] for _ in range(2)]
    most = [record for record in found if rng.random() < 0.95]
    root = folder / "runs"
    return {
        "good0": make_evaluated_run(root, "good", coco, found),
        "good1": make_evaluated_run(root, "good", coco, most, seed=1),
        "bad0": make_evaluated_run(root, "bad", coco, fewer[0]),
        "bad1": make_evaluated_run(root, "bad", coco, fewer[1], seed=1),
        "same": make_evaluated_run(root, "same", coco, found),
    }


def ap(path: Path) -> float:
    """The AP of a run in percent."""
    results = Run(path).results
    assert results is not None
    return 100 * results["val/bbox/AP"]
