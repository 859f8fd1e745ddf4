"""What a service keeps of a run directory."""

from __future__ import annotations

import json
from pathlib import Path

from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.remote_copy import DEVIATIONS, EXPERIMENTS, META, RESULTS, STATUS, copy_of
from tests.support.runs import make_bare_run, write_json


def test_a_copy_is_what_the_directory_says_under_flat_keys(tmp_path: Path) -> None:
    path = make_bare_run(tmp_path)
    write_json(path / "status.json", {"state": "finished", "step": 6})
    write_json(path / "results.json", {"val/bbox/AP": 0.25})
    write_json(path / "experiments.json", {"stages_3": [], "base": ["seed: 0 -> 1"]})
    copy = copy_of(Run(path))
    assert copy == {
        META: json.loads((path / "meta.json").read_text()),
        STATUS: {"state": "finished", "step": 6},
        RESULTS: {"val/bbox/AP": 0.25},
        EXPERIMENTS: ["base", "stages_3"],
        DEVIATIONS: {"base": ["seed: 0 -> 1"], "stages_3": []},
    }
    assert set(copy) == {f"run_directory/{name}" for name in ("meta", "status", "results", "experiments", "deviations")}
    assert json.loads(json.dumps(copy)) == copy


def test_a_run_that_has_only_begun_is_copied_too(tmp_path: Path) -> None:
    copy = copy_of(Run(make_bare_run(tmp_path)))
    assert (copy[STATUS], copy[RESULTS]) == ({"state": "created"}, None)
    assert (copy[EXPERIMENTS], copy[DEVIATIONS]) == (["base"], {"base": []})
