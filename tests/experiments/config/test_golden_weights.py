"""The weights that a row of recipe=mini begins with at seed 0: a run of today begins as one of before did.

The order in which the parts of a model are built decides which random numbers each draws, and with that every number of
a training.
"""

from __future__ import annotations

import json

import pytest

from experiments.config.build import build, with_num_classes
from experiments.config.rows import compose_row
from sparse_rcnn.rng import seed_everything
from tests.support.paths import ROOT

# Of each parameter's absolute values the sum. After a change that is meant: print(json.dumps(sums_of(row))).
GOLDEN = json.loads((ROOT / "tests" / "golden" / "initial_weights.json").read_text())


def sums_of(row: str) -> dict[str, float]:
    config = with_num_classes(compose_row("mini", row, ()), 4)
    seed_everything(0)
    model = build(config, "model")
    return {name: round(p.detach().double().abs().sum().item(), 6) for name, p in model.named_parameters()}


@pytest.mark.parametrize("row", GOLDEN)
def test_a_row_begins_with_the_weights_of_before(row: str) -> None:
    sums = sums_of(row)
    assert list(sums) == list(GOLDEN[row])
    assert sums == pytest.approx(GOLDEN[row], rel=1e-5, abs=1e-6)
