"""What a run ends with is compared with its digests wherever it is read, and is written anew where it is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.__main__ import main as analysis
from analysis.commands.stages import learned_boxes
from analysis.statistics.coco_columns import load_detections, load_ground_truth, load_stage_detections
from experiments import evaluate
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.digests import recorded_digests
from sparse_rcnn.rundir.reader import Run
from sparse_rcnn.rundir.verification import verify_run
from sparse_rcnn.rundir.views import read_view, view_ids
from tests.support import training
from tests.support.damage import flip, flip_for_good

ARGUMENTS = ("eval.every_epochs=1", "eval.num_pictures=1")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training.train(training.overrides(tmp_path_factory.mktemp("runs"), *ARGUMENTS))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / finished.parent.name / finished.name))


def view(run: Run) -> Any:
    return read_view(run, view_ids(run)[0])


READERS: dict[str, Callable[[Run], Any]] = {
    "results.json": lambda run: run.results,
    "eval/step_00000004.json": lambda run: run.evaluations,
    "views": view,
    "detections.json": lambda run: load_detections(run, load_ground_truth(run)),
    "stage_detections.npz": lambda run: load_stage_detections(run, load_ground_truth(run)),
    "model.safetensors": lambda run: learned_boxes(run, None),
    "checkpoints/step_00000006/model.safetensors": lambda run: learned_boxes(run, 6),
}


@pytest.mark.parametrize("name", READERS)
def test_another_bit_is_one_line_that_names_the_file(run: Path, name: str) -> None:
    path = run / name
    if name == "views":
        (path,) = path.glob("*.json")
    READERS[name](Run(run))
    for bit in (8 * path.stat().st_size // 2, 8 * path.stat().st_size - 800):
        with flip(path, bit):
            with pytest.raises(UserError) as caught:
                READERS[name](Run(run))
            message = str(caught.value)
            assert message.startswith(str(path)), message
            assert "\n" not in message
            assert message.endswith("; restore it from a copy") or "is not valid JSON" in message


def test_all_that_a_run_ends_with_has_a_digest(run: Path) -> None:
    listed = recorded_digests(run)
    assert listed is not None
    assert sorted(listed) == [
        "config.json", "data.json", "detections.json", "detections.png", "model.safetensors", "overrides.txt",
        "stage_detections.npz",
    ]  # fmt: skip
    for path in (run / "results.json", *(run / "eval").iterdir(), *(run / "views").glob("*.json")):
        assert list(json.loads(path.read_text()))[-1] == "sha256", path
    assert "sha256" not in (Run(run).results or {})


def test_every_file_of_a_finished_run_is_verified(run: Path) -> None:
    assert (run / "overrides.txt").read_bytes() == b""
    found = verify_run(run)
    assert (found.faults, found.notes, found.num_without_digest) == ([], [], 0)
    changing = {"meta.json", "status.json", "experiments.json", "metrics.jsonl", "lock"}
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file() and path.suffix != ".jpg"}
    assert found.num_whole == len({name for name in files - changing if not name.endswith("digests.json")})
    for name in sorted(files - changing - {"overrides.txt"}):
        with flip(run / name, 8 * (run / name).stat().st_size // 2):
            faults = verify_run(run).faults
        folder = name.rpartition("/")[0] if name.startswith("checkpoints/") else name
        assert faults, name
        assert all(fault.startswith(folder) for fault in faults), faults


def test_commands_refuse_damaged_files(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip_for_good(run / "model.safetensors", 8 * (run / "model.safetensors").stat().st_size - 80)
    with pytest.raises(UserError, match=r"^\S*model\.safetensors has another content than was written: .*restore it"):
        evaluate.main([str(run), "--device", "cpu"])
    flip_for_good(run / "detections.json", 800)
    assert analysis(["errors", str(run)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {run / 'detections.json'} has another content than was written")


def test_damaged_results_are_written_anew_from_the_last_checkpoint(
    finished: Path, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("results.json", "eval/step_00000006.json", "detections.json"):
        flip_for_good(run / name, 8 * (run / name).stat().st_size // 2)
    assert not Run(run).is_finished
    assert training.train(training.overrides(run.parents[1], *ARGUMENTS)) == run
    assert "resuming at step 6 of 6" in capfd.readouterr().err
    assert Run(run).is_finished
    assert training.results(run) == training.results(finished)
    assert Run(run).evaluations == Run(finished).evaluations
    assert recorded_digests(run)["detections.json"] == recorded_digests(finished)["detections.json"]  # type: ignore[index]


def test_a_damaged_evaluation_is_repeated_where_the_run_goes_on_from_it(tmp_path: Path) -> None:
    arguments = training.overrides(tmp_path, *ARGUMENTS)
    run = training.train(arguments)
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step_00000006")
    evaluation = run / "eval" / "step_00000004.json"
    whole = evaluation.read_bytes()
    evaluation.write_bytes(whole[:-30])
    training.train(arguments)
    assert evaluation.read_bytes() == whole
