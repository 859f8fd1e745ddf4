"""Identities of every row under every recipe equal those of the golden file: finished runs stay what they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.config.build import build
from experiments.config.rows import compose_row
from sparse_rcnn.rundir.identity import run_identity
from tests.support.paths import ROOT

GOLDEN = json.loads((ROOT / "tests" / "golden" / "identities.json").read_text())


def content_of(config: dict[str, Any]) -> dict[str, Any]:
    """As a training hashes it, with names in place of the user's files."""
    if config["data"]["generator"] is not None:
        data = build(config, "data.generator").key()
    else:
        data = {"train": "training annotations", "val": "validation annotations"}
    given = {name: config["weights"][name] for name in ("backbone", "detector")}
    weights = {f"weights.{name}": value for name, value in given.items() if value is not None}
    return {"data": data, **weights}


@pytest.mark.parametrize("recipe", GOLDEN)
def test_identities_are_those_of_the_golden_file(recipe: str) -> None:
    identities = {}
    for experiment in GOLDEN[recipe]:
        config = compose_row(recipe, experiment, ())
        identities[experiment] = run_identity(config, content_of(config))
    assert identities == GOLDEN[recipe]


def test_every_row_is_in_the_golden_file() -> None:
    rows = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    recipes = {path.stem for path in (ROOT / "conf" / "recipe").glob("*.yaml")}
    assert {recipe: set(GOLDEN[recipe]) for recipe in GOLDEN} == dict.fromkeys(recipes, rows)
