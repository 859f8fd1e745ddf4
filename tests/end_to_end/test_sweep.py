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
import yaml

from experiments.sweep.job_labels import job_names
from experiments.sweep.local_launcher import visible_gpus
from experiments.sweep.plan import PlannedRun, SweepError, check, plan, record
from experiments.sweep.slurm_launcher import _Watched, job_states
from sparse_rcnn.errors import UserError
from tests.support import training
from tests.support.paths import ROOT

ROWS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
SWEEPS = sorted(path.stem for path in (ROOT / "conf" / "sweep").glob("*.yaml"))


def arguments(runs_root: Path, *extra: str) -> list[str]:
    """A tiny training's overrides; a key in ``extra`` replaces its fixed value."""
    names = {key.split("=")[0] for key in extra}
    free = names | ({"num_stages", "num_proposals"} if names & {"experiment", "sweep"} else set())
    return [o for o in training.overrides(runs_root) if o.split("=")[0] not in free] + list(extra)


def sweep(runs_root: Path, *extra: str, timeout: float = 200) -> tuple[int, str, str]:
    return training.finish(start(runs_root, *extra), timeout)


def start(runs_root: Path, *extra: str) -> subprocess.Popen[str]:
    return training.start(["-m", *arguments(runs_root, *extra)], COLUMNS="200")


def rows_of(name: str) -> list[str]:
    params = yaml.safe_load((ROOT / "conf" / "sweep" / f"{name}.yaml").read_text()) or {}
    chosen = params.get("hydra", {}).get("sweeper", {}).get("params", {}).get("experiment", "")
    return [row for row in chosen.replace("\n", "").replace(" ", "").split(",") if row]


def compose(job: list[str]):  # type: ignore[no-untyped-def]
    return training.composed(job)


def test_every_row_is_in_a_study_and_all_holds_each_once() -> None:
    everything = rows_of("all")
    assert sorted(everything) == ROWS
    studied = {row for name in SWEEPS if name not in ("all", "none") for row in rows_of(name)}
    assert studied == set(ROWS)
    for name in SWEEPS:
        assert len(set(rows_of(name))) == len(rows_of(name)), name


def test_every_study_has_the_baseline_or_says_what_it_builds_up_from() -> None:
    for name in SWEEPS:
        if name not in ("none", "feature_reuse"):
            assert {"baseline", "stages_6"} & set(rows_of(name)), name


def test_equal_rows_are_one_run_under_all_their_names(tmp_path: Path) -> None:
    base = arguments(tmp_path, "experiment=x", "num_stages=3")[:-2]
    jobs = [[*base, f"experiment={name}", "num_stages=3"] for name in ("baseline", "stages_3", "head_attention")]
    rows = plan(jobs, compose)
    assert [row.names for row in rows] == [["baseline", "stages_3"], ["head_attention"]]
    assert [row.state for row in rows] == ["missing"] * 2
    assert not tmp_path.joinpath("baseline").exists()


def test_seeds_and_roots_are_runs_of_their_own(tmp_path: Path) -> None:
    jobs = [[*training.overrides(tmp_path / root), f"seed={seed}"] for root in ("a", "b") for seed in (0, 1)]
    assert len(plan(jobs, compose)) == 4


def test_a_sweep_of_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="the sweep selects nothing"):
        plan([], compose)


def test_a_wrong_configuration_names_its_job(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_stages must be at least 1, got 0 \(in the job .*num_stages=0"):
        plan([[*training.overrides(tmp_path), "num_stages=0"]], compose)


def test_a_run_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    from experiments.sweep.plan import pending
    from sparse_rcnn.rundir.lock import lock_run

    (row,) = plan([training.overrides(tmp_path)], compose)
    run = tmp_path / "baseline" / f"{row.identity}-seed0"
    run.mkdir(parents=True)
    (run / "meta.json").write_text(
        json.dumps({"schema_version": 1, "run_id": run.name, "identity": row.identity, "seed": 0})
    )
    with lock_run(run):
        assert pending([row]) == []
    assert row.state == "busy"
    with pytest.raises(SweepError, match="of 1 runs 1 busy"):
        check([row])


def test_what_a_job_said_counts_only_where_the_run_is_not_finished(tmp_path: Path) -> None:
    (row,) = plan([training.overrides(tmp_path)], compose)
    record(row, RuntimeError("first line\nsecond"), tmp_path / "log")
    assert (row.state, row.error, row.log) == ("failed", "first line", tmp_path / "log")
    record(row, None, None)
    assert row.state == "missing"
    training.train(training.overrides(tmp_path))
    record(row, RuntimeError("the connection was lost"), None)
    assert row.state == "finished"
    check([row])


def test_names_of_jobs_tell_them_apart() -> None:
    assert job_names([["a=1", "b=2"], ["a=1", "b=3"]]) == ["b=2", "b=3"]
    assert job_names([["a=1", "b=2"]]) == ["a=1 b=2"]


def test_visible_gpus_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, gpus in {"2,3": ["2", "3"], "": [], "-1": [], "GPU-abc": ["GPU-abc"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == gpus


def test_an_old_failure_is_not_told_as_todays(tmp_path: Path) -> None:
    from experiments.sweep.plan import pending, print_rows

    with pytest.raises(UserError, match="NaN or infinity"):
        training.train(training.overrides(tmp_path, "optim.lr=1e30"))
    (row,) = plan([training.overrides(tmp_path, "optim.lr=1e30")], compose)
    assert pending([row]) == [row]
    record(row, RuntimeError("[pair.cc:534] killed by SIGKILL"), tmp_path / "today.log")
    assert (row.state, row.error, row.log) == ("failed", "[pair.cc:534] killed by SIGKILL", tmp_path / "today.log")
    print_rows([row])  # brackets are no markup
    assert row.path is not None
    (row.path / "status.json").write_text("{")
    record(row, None, None)
    assert (row.state, "status.json" in row.error) == ("failed", True)


def test_only_failures_and_missing_runs_end_a_sweep_badly() -> None:
    rows = [PlannedRun([], [{"experiment_name": "a"}], "x", 0, state) for state in ("finished", "skipped")]
    check(rows)
    rows += [PlannedRun([], [{"experiment_name": "b"}], "y", 0, state) for state in ("failed", "missing", "failed")]
    with pytest.raises(SweepError, match="of 5 runs 2 failed, 1 missing"):
        check(rows)


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


def test_a_job_is_given_up_only_when_slurm_does_not_know_it_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Paths:
        result_pickle, stderr = tmp_path / "result.pkl", tmp_path / "err"

    class Job:
        job_id, paths = "7_0", Paths

    import experiments.sweep.slurm_launcher as launcher

    clock = [0.0]
    monkeypatch.setattr(launcher.time, "monotonic", lambda: clock[0])
    watched = _Watched(Job, ["a=1"], "a=1")
    for at, state in [(0, "RUNNING"), (5, "FAILED"), (20, None), (25, "NODE_FAIL"), (110, "NODE_FAIL")]:
        clock[0] = at
        watched.look(state)
        assert watched.result is None, at
    clock[0] = 120
    watched.look("NODE_FAIL")
    with pytest.raises(RuntimeError, match="SLURM job 7_0: the job ended as NODE_FAIL without a result"):
        watched.result.return_value  # noqa: B018


@pytest.mark.parametrize(
    ("answer", "states"),
    [
        ("echo '7_0|RUNNING'; echo '7_1|PENDING'", {"7_0": "RUNNING", "7_1": "PENDING"}),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", {}),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", None),
    ],
)
def test_slurm_not_answering_is_no_news_of_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, states: dict[str, str] | None
) -> None:
    program = tmp_path / "squeue"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert job_states(["7_0", "7_1"]) == states


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
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("*/*/status.json")]
    assert states == ["interrupted"] * 2
    code, out, err = sweep(tmp_path, *extra)
    assert code == 0, (out, err)
    assert len(list(tmp_path.glob("*/*/results.json"))) == 3


def test_each_job_at_a_time_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    import experiments.sweep.local_launcher as launcher

    Start = tuple[str, str | None, str | None]  # the job, its GPU and its threads
    begun: list[Start] = []

    class Process:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
            assert command[3:6] == ["--config-dir", "/mine", "hydra.job.name=x"]
            begun.append((command[-1], env.get("CUDA_VISIBLE_DEVICES"), env.get("OMP_NUM_THREADS")))

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(launcher.subprocess, "Popen", Process)
    monkeypatch.setattr(launcher, "POLL_SECONDS", 0.0)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def launch(
        num_jobs: int | None, cores_per_job: int = 1, device: str = "auto"
    ) -> list[tuple[str, str | None, str | None]]:
        begun.clear()
        local = launcher.LocalLauncher(num_jobs, cores_per_job)
        local.config = OmegaConf.create(
            {
                "train": {"device": device},
                "hydra": {
                    "sweep": {"dir": str(tmp_path / "logs")},
                    "runtime": {"config_sources": [{"path": "/mine", "schema": "file", "provider": "command-line"}]},
                    "overrides": {"hydra": ["hydra.launcher.num_jobs=2", "hydra.job.name=x"]},
                },
            }
        )
        results = local.launch([[f"seed={seed}"] for seed in range(4)], 0)
        assert [result.return_value for result in results] == [None] * 4
        return list(begun)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    jobs = launch(None)
    assert [job for job, _, _ in jobs] == [f"seed={seed}" for seed in range(4)]
    assert {gpu for _, gpu, _ in jobs[:2]} == {"4", "GPU-7"}
    assert {gpu for _, gpu, _ in jobs[2:]} == {"4", "GPU-7"}
    assert len({threads for _, _, threads in jobs}) == 1
    assert {gpu for _, gpu, _ in launch(1)} == {"4"}
    with pytest.raises(UserError, match=r"num_jobs=3, but there are 2 GPUs"):
        launch(3)
    assert {(gpu, threads) for _, gpu, threads in launch(3, device="cpu")} == {("4,GPU-7", "1")}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [(gpu, threads) for _, gpu, threads in launch(2, 3)] == [("", "3")] * 4
