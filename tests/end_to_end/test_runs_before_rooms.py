"""Run directories and weights files from before the rooms: read, tabulated, skipped, evaluated and resumed today."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from analysis.__main__ import main as analysis
from experiments import evaluate
from sparse_rcnn import SparseRCNN
from sparse_rcnn.rundir.find import find_runs
from sparse_rcnn.rundir.summary import summarise
from tests.support import training
from tests.support.paths import ROOT

OLD = ROOT / "tests" / "golden" / "runs_before_rooms"
IDENTITY = "dd8822b29dd2"
SMALL = (
    "hidden_dim=16",
    "scale.dim_feedforward=32",
    "scale.dim_dynamic=4",
    "num_proposals=5",
    "model.backbone.bottom_up.widths=[16,16,16,16]",
    "num_stages=1",
    "eval.num_pictures=1",
)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "runs"))


def files(folder: Path) -> dict[Path, bytes]:
    names = ("lock", "experiments.json")  # the lock is left behind, the rows a run equals may be noted
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in names}


def test_they_are_read_and_summarised(runs: Path) -> None:
    finished, stopped = map(summarise, find_runs(runs))
    assert (finished.finished, finished.seed, finished.problem) == (True, 0, None)
    assert finished.values["val/bbox/AP"] >= 0
    assert (stopped.state, stopped.step, stopped.num_steps, stopped.seed) == ("interrupted", 4, 6, 1)
    assert {finished.identity, stopped.identity} == {IDENTITY}
    assert set(finished.experiments) >= {"baseline", "stages_1"}
    assert finished.deviations["stages_1"]


def test_they_fill_tables(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysis(["tables", "--runs", str(runs), "--table", "7"]) == 0
    out = capsys.readouterr().out
    ap = summarise(find_runs(runs)[0]).values["val/bbox/AP"]
    (row,) = [line for line in out.splitlines() if "stages_1" in line and "[" in line][:1]
    assert f"{100 * ap:.1f}" in row
    assert "unfinished and not used (interrupted, step 4 of 6)" in out


def test_a_finished_one_is_skipped(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(runs)
    path = training.train(training.overrides(runs, *SMALL))
    assert path == runs / "baseline" / f"{IDENTITY}-seed0"
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert files(runs) == before


def test_a_stopped_one_is_resumed_and_ends_as_one_of_today(runs: Path, tmp_path: Path) -> None:
    path = training.train(training.overrides(runs, *SMALL, "seed=1"))
    assert path == runs / "baseline" / f"{IDENTITY}-seed1"
    events = training.losses(path)
    assert sorted(events) == list(range(1, 7))
    assert json.loads((path / "meta.json").read_text())["resumes"]
    # Its first four steps were another machine's: equal but for rounding.
    fresh = training.train(training.overrides(tmp_path / "fresh", *SMALL, "seed=1"))
    weights, expected = (training.weights(run / "model.safetensors") for run in (path, fresh))
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_weights_load_and_give_the_ap_of_then(runs: Path, tmp_path: Path) -> None:
    run = runs / "baseline" / f"{IDENTITY}-seed0"
    assert SparseRCNN.from_pretrained(run / "model.safetensors").num_stages == 1
    data = training.data_root()
    options = ["--annotations", f"{data}/instances_val.json", "--images", f"{data}/val", "--device", "cpu"]
    evaluate.main([str(run), *options, "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]["test/bbox/AP"]
    assert found == pytest.approx(json.loads((run / "results.json").read_text())["val/bbox/AP"], abs=1e-3)
