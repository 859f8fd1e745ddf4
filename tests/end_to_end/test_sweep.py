"""Sweeps on one machine: which runs, skipped, failed, side by side, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import training


def arguments(runs_root: Path, *extra: str) -> list[str]:
    """A tiny training's overrides; a key in ``extra`` replaces its fixed value."""
    names = {key.split("=")[0] for key in extra}
    free = names | ({"num_stages", "num_proposals"} if names & {"experiment", "sweep"} else set())
    return [o for o in training.overrides(runs_root) if o.split("=")[0] not in free] + list(extra)


def sweep(runs_root: Path, *extra: str, timeout: float = 200) -> tuple[int, str, str]:
    return training.finish(start(runs_root, *extra), timeout)


def start(runs_root: Path, *extra: str) -> subprocess.Popen[str]:
    return training.start(["-m", *arguments(runs_root, *extra)], COLUMNS="200")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["experiment=glob(nothing*)"], "the sweep selects nothing"),
        (["experiment=baseline,no_such_row"], "experiment: there is no option 'no_such_row'"),
        (["sweep=no_such_sweep"], "sweep: there is no option 'no_such_sweep'"),
        (["num_stagse=1,2"], "num_stagse: unknown key; did you mean 'num_stages'"),
        (["+model.stage.reuse.num_head=1,2"], "model.stage.reuse.num_head: unknown key"),
        (["num_stages=1,0"], "num_stages must be at least 1, got 0"),
        (["hydra/launcher=slurm", "seed=0,1"], "hydra/launcher=slurm: sbatch is not found on this machine"),
        (["hydra/launcher=local", "hydra.launcher.num_jobs=0", "seed=0,1"], "num_jobs and cores_per_job must be at"),
    ],
)
def test_mistakes_are_one_line_and_start_nothing(tmp_path: Path, extra: list[str], message: str) -> None:
    process = training.start(["-m", *arguments(tmp_path / "runs", *extra)], PATH=str(Path(sys.executable).parent))
    code, _, err = training.finish(process)
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in err
    assert not list((tmp_path / "runs").glob("*/*")), "half-made runs, or logs of none"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_study_trains_once_and_is_then_skipped(tmp_path: Path, launcher: str) -> None:
    extra = ("sweep=instance_interaction", f"hydra/launcher={launcher}")
    code, out, err = sweep(tmp_path, *extra)
    assert code == 0, (out, err)
    runs = sorted(path.parent.parent.name for path in tmp_path.glob("*/*/results.json"))
    assert runs == ["baseline", "head_fc_reuse_concat", "head_none"]
    assert sum("finished" in line for line in out.splitlines() if line.startswith("│")) == 3
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    code, out, _ = sweep(tmp_path, *extra)
    assert code == 0
    assert sum("skipped" in line for line in out.splitlines()) == 3
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == written


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "local"])
def test_a_failed_run_leaves_the_others_alone_and_is_tried_again(tmp_path: Path, launcher: str) -> None:
    extra = ("optim.lr=1e30,1e-3,2e-3", f"hydra/launcher={launcher}")
    for finished in ("finished", "skipped"):
        code, out, err = sweep(tmp_path, *extra)
        assert code == 1, (out, err)
        assert "error: of 3 runs 1 failed" in err
        assert "Traceback" not in err
        assert sum(finished in line for line in out.splitlines() if line.startswith("│")) == 2
        assert "NonFiniteError" in out
        assert "error.log" in out
    (log,) = tmp_path.glob("*/*/error.log")
    assert "Traceback" in log.read_text()


@pytest.mark.slow
def test_a_killed_process_does_not_end_a_local_sweep(tmp_path: Path) -> None:
    process = start(tmp_path, "seed=0,1,2", "hydra/launcher=local", "schedule.length=60", "hydra.launcher.num_jobs=2")
    holder = tmp_path / "baseline"
    end = time.monotonic() + 90
    while not (found := list(holder.glob("*-seed0/lock_holder.json"))) or not list(
        holder.glob("*-seed0/checkpoints/*")
    ):
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(json.loads(found[0].read_text())["pid"], signal.SIGKILL)
    code, out, err = training.finish(process, timeout=200)
    assert code == 1, (out, err)
    assert "killed by SIGKILL" in out
    assert len(list(tmp_path.glob("*/*/results.json"))) == 2
    code, out, err = sweep(tmp_path, "seed=0,1,2", "hydra/launcher=local", "schedule.length=60")
    assert code == 0, (out, err)


@pytest.mark.slow
def test_ctrl_c_saves_the_runs_of_a_local_sweep_which_then_goes_on(tmp_path: Path) -> None:
    extra = ("seed=0,1,2", "hydra/launcher=local", "schedule.length=100", "hydra.launcher.num_jobs=2")
    process = start(tmp_path, *extra)
    end = time.monotonic() + 90
    while len({path.parents[1] for path in tmp_path.glob("*/*/checkpoints/*")}) < 2:  # both runs have one
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = training.finish(process, timeout=60)
    assert code == 1, (out, err)
    assert "interrupted" in err
    table = [line.split("│") for line in out.splitlines() if "│" in line]
    shown = [(cells[3].strip(), cells[6].strip().split(":")[0]) for cells in table]
    begun = ("stopped", "stopped before its end; start the sweep again to go on")
    not_begun = ("stopped", "the sweep was stopped before this run began; start it again to train it")
    assert sorted(shown) == [begun, begun, not_begun], out
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("*/*/status.json")]
    assert states == ["interrupted"] * 2
    code, out, err = sweep(tmp_path, *extra)
    assert code == 0, (out, err)
    assert len(list(tmp_path.glob("*/*/results.json"))) == 3


@pytest.mark.slow
def test_what_is_planned_of_a_primary_config_is_what_is_trained(tmp_path: Path) -> None:
    folder = tmp_path / "conf ü (1)"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "defaults: [train, _self_]\nseed: 5\nruns_root: ~/rüns, [1]\nhydra: {mode: MULTIRUN}\n"
    )
    own = arguments(tmp_path, "schedule.length=1", "schedule.num_warmup_steps=0", "runs_root=", "num_stages=")
    own = [o for o in own if o not in ("runs_root=", "num_stages=")]
    home = {"HOME": str(tmp_path), "COLUMNS": "200"}
    words = ["num_stages=1,2", f"--config-dir={folder}", "--config-name=mine", *own]
    code, out, err = training.finish(training.start(words, **home), 200)
    assert code == 0, (out, err)
    assert [line.count("finished") for line in out.splitlines() if "num_stages=" in line] == [1, 1]
    runs = sorted((tmp_path / "rüns, [1]").glob("*/*/meta.json"))
    assert {(json.loads(path.read_text())["seed"], json.loads(path.read_text())["config_name"]) for path in runs} == {
        (5, "mine")
    }
    assert len(runs) == 2
