"""python -m experiments.verify: damage in any file of any run, in one line each; nothing changes unasked."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from experiments import verify
from sparse_rcnn.checkpoint import CheckpointFolder, TrainingState
from sparse_rcnn.model_card import ModelCard
from sparse_rcnn.rundir.lock import lock_run
from sparse_rcnn.rundir.verification import verify_run
from sparse_rcnn.rundir.writer import RunDescription, RunDirectory
from sparse_rcnn.weights import save_detector
from tests.support.damage import flip_for_good, without_digests, without_own_digest
from tests.support.paths import ROOT, names

OLD = ROOT / "tests" / "golden" / "runs_before_rooms"
CARD = ModelCard({"_target_": "x"}, [{"id": 1, "name": "cell"}], 64, 96)


def small_run(root: Path, experiment: str = "baseline", state: str = "finished", seed: int = 0) -> Path:
    """A run with two checkpoints and two evaluations; a finished one with all that ends it."""
    described = RunDescription(experiment, "0123456789ab", seed, {"seed": seed}, [], {experiment: []}, {})
    run = RunDirectory.open(root, described)
    folder = CheckpointFolder(run.path / "checkpoints")
    for step in (2, 4):
        folder.save(nn.Linear(3, 2), CARD, TrainingState(step, described.identity, 1.0, {}, None, []))
        run.write_evaluation(step, {"step": step, "epoch": 1.0, "metrics": {"val/bbox/AP": 0.5}})
    (run.path / "metrics.jsonl").write_text('{"event": "train", "step": 1, "metrics": {}}\n')
    run.set_status(state, step=4, num_steps=4, epoch=1.0)
    if state == "finished":
        save_detector(nn.Linear(3, 2), CARD, run.path / "model.safetensors")
        run.write_json("detections.json", [])
        run.write_results({"val/bbox/AP": 0.5})
    return run.path


def command(capsys: pytest.CaptureFixture[str], *arguments: object, code: int) -> tuple[str, str]:
    """What is written to stdout and stderr."""
    with pytest.raises(SystemExit) if code else contextlib.nullcontext() as ended:
        verify.main([str(argument) for argument in arguments])
    assert ended is None or ended.value.code == code
    out, err = capsys.readouterr()
    return out, err


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_whole_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small_run(tmp_path)
    small_run(tmp_path, "stages_1", "interrupted", seed=1)
    (tmp_path / "notes" / "draft").mkdir(parents=True)
    before = contents(tmp_path)
    out, err = command(capsys, tmp_path, code=0)
    assert contents(tmp_path) == before
    assert err == ""
    header, first, second, *rest = out.splitlines()
    assert header.split() == ["run", "state", "as", "written", "no", "digest", "MB", "faults"]
    assert first.split() == ["baseline", "seed", "0", "finished", "11", "0", "0.0", "none"]
    assert second.split() == ["stages_1", "seed", "1", "interrupted", "6", "0", "0.0", "none"]
    assert rest == [f"no runs: {tmp_path}/notes/draft", "2 runs: 17 files as written"]


FINAL = ("config.json", "overrides.txt", "model.safetensors", "detections.json", "digests.json")
OTHERS = ("results.json", "eval/step_00000002.json")
CHECKPOINTS = tuple(
    f"checkpoints/step_00000002/{name}" for name in ("model.safetensors", "training_state.pt", "digests.json")
)


@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
@pytest.mark.parametrize("name", [*FINAL, *OTHERS, *CHECKPOINTS])
def test_damage_is_a_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    path = small_run(tmp_path)
    small_run(tmp_path, seed=1)
    if name == "overrides.txt":
        (path / name).write_text("seed=0\n")  # which is empty otherwise
    elif how == "flipped":
        flip_for_good(path / name, 8 * (path / name).stat().st_size // 2)
    elif how == "cut":
        (path / name).write_bytes((path / name).read_bytes()[:-5])
    else:
        (path / name).unlink()
    before = contents(tmp_path)
    if name.startswith("eval") and how == "missing":  # that there was one is recorded nowhere
        command(capsys, tmp_path, code=0)
        return
    out, err = command(capsys, tmp_path, code=1)
    faults = [line for line in out.splitlines() if line.startswith("fault: ")]
    assert faults
    folder, _, file = name.rpartition("/")
    assert all(line.startswith(f"fault: {path}/{folder if name in CHECKPOINTS else name}") for line in faults), faults
    assert all(file in line for line in faults)
    assert len(faults) == 1 or name == "config.json"  # no JSON, and not what was written
    assert err == f"error: {'2 faults' if len(faults) == 2 else '1 fault'} in 1 of 2 runs, see above\n"
    assert contents(tmp_path) == before


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_run(tmp_path)
    flip_for_good(path / "results.json", 200)
    (path / "metrics.jsonl").write_text('garbage\n{"event": "train", "st')
    out, _ = command(capsys, "--json", tmp_path, code=1)
    value = json.loads(out)
    (run,) = value["runs"]
    assert value["foreign"] == []
    assert run.pop("num_bytes") > 1000
    assert run["faults"].pop().startswith("results.json ")
    torn = "a last line that is cut off"
    assert run == {
        "path": str(path), "name": "baseline seed 0", "state": "finished", "num_whole": 10, "num_without_digest": 0,
        "damaged_steps": [], "faults": [],
        "notes": [f"metrics.jsonl has 1 unreadable line and {torn}, as a killed process leaves behind"],
    }  # fmt: skip


def test_damaged_checkpoints_are_set_aside_only_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small_run(tmp_path)
    checkpoints = path / "checkpoints"
    flip_for_good(checkpoints / "step_00000002" / "training_state.pt", 4000)
    command(capsys, tmp_path, code=1)
    assert names(checkpoints) == ["step_00000002", "step_00000004"]
    with lock_run(path):
        out, err = command(capsys, "--set-aside", tmp_path, code=1)
    assert f"error: {path} is in use by process " in err
    assert names(checkpoints) == ["step_00000002", "step_00000004"]
    out, err = command(capsys, "--set-aside", tmp_path, code=0)
    assert names(checkpoints) == ["damaged-step_00000002", "step_00000004"]
    problem = "training_state.pt has another content than was written: its SHA-256 is not that of digests.json"
    note = "checkpoints/damaged-step_00000002 is a damaged checkpoint that was set aside"
    assert f"note: {path}/{note}: {problem}\n" in out
    assert RunDirectory(path).status["set_aside"][0]["problem"] == problem
    assert command(capsys, "--set-aside", path, code=0) == (out, "")


def test_runs_of_older_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = command(capsys, OLD, code=0)
    assert "2 runs: 0 files as written, " in out
    path = small_run(tmp_path)
    (path / "digests.json").unlink()
    assert verify_run(path).faults == ["digests.json is missing"]
    for file in (path / "results.json", *(path / "eval").iterdir()):
        content: dict[str, Any] = json.loads(file.read_text())
        file.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"}))
    without_own_digest(path / "model.safetensors")
    for step in (2, 4):
        without_digests(path / "checkpoints" / f"step_0000000{step}")
    found = verify_run(path)
    assert (found.faults, found.num_whole, found.num_without_digest) == ([], 0, 8)
    (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-4])
    (path / "detections.json").unlink()
    assert [fault.split()[0] for fault in verify_run(path).faults] == ["detections.json", "model.safetensors"]


def test_what_is_no_run_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small_run(tmp_path)
    (path / "meta.json").write_text("{")
    out, _ = command(capsys, tmp_path, code=1)
    assert f"fault: {path}/meta.json is not valid JSON" in out
    shutil.rmtree(path)
    _, err = command(capsys, tmp_path / "nowhere", code=1)
    assert err == f"error: {tmp_path}/nowhere does not exist; give the runs_root of a training, by default runs/\n"


def test_annotations_that_have_changed_are_noted(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    (tmp_path / "train.json").write_text("{}")
    meta = json.loads((path / "meta.json").read_text())
    recorded = {"fingerprint": "ab" * 32, "annotations": str(tmp_path / "train.json")}
    meta["data"] = {"train": recorded, "val": {**recorded, "annotations": "/nowhere/val.json"}}
    (path / "meta.json").write_text(json.dumps(meta))
    found = verify_run(path)
    assert found.notes == [f"meta.json: {tmp_path}/train.json has changed since the run began"]
    assert found.faults == []
