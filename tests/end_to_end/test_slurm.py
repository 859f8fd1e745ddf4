"""Sweeps on a real SLURM: arrays, preemption, time limits, lost nodes, several tasks, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import training
from tests.support.paths import ROOT
from tests.support.slurm_cluster import MiniSlurm, reason_against

LAUNCHER = (
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_task=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=60",
)
MAX_ARRAY_SIZE = 4
LONG = 240  # steps: long enough to be caught in the middle


@pytest.fixture(scope="module")
def cluster() -> Iterator[MiniSlurm]:
    reason = reason_against()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="ms", dir="/tmp"))  # short, for unix sockets
    slurm = MiniSlurm(folder, f"MaxArraySize={MAX_ARRAY_SIZE}")
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def runs_root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="slurm_runs", dir="/tmp"))
    yield folder / "runs"
    shutil.rmtree(folder, ignore_errors=True)


# experiments.train, asking SLURM more often, and sooner sure that nothing more will come of a job.
IMPATIENT = """
import runpy, sys
import experiments.sweep.slurm_launcher as launcher
launcher.POLL_SECONDS, launcher.GRACE_SECONDS = 0.5, 15.0
runpy.run_module("experiments.train", run_name="__main__", alter_sys=True)
"""


def sweep(
    cluster: MiniSlurm, arguments: list[str], folder: Path = ROOT, inside: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Start a sweep from the cluster's login node, so to speak, or ``inside`` an allocation."""
    return subprocess.Popen(
        [*inside, sys.executable, "-c", IMPATIENT, "-m", *arguments],
        cwd=folder,
        env={**cluster.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def overrides(runs_root: Path, *extra: str) -> list[str]:
    free = tuple(key.split("=")[0] for key in extra)
    return [o for o in training.overrides(runs_root, *LAUNCHER) if not o.startswith(free)] + list(extra)


def slowed(folder: Path, function: str, seconds: float) -> str:
    """The override that makes each call of a function wait in a job's first session, however fast this machine is.

    The file ``begun`` in ``folder`` says that one waits.
    """
    module, name = function.rsplit(".", 1)
    (folder / "sitecustomize.py").write_text(
        "import importlib, os, sys, time\n"
        "if os.environ.get('SLURM_RESTART_COUNT', '0') == '0' and 'submitit.core._submit' in ' '.join(sys.orig_argv):\n"
        f"    module = importlib.import_module({module!r})\n"
        f"    plain = module.{name}\n"
        f"    module.{name} = lambda *a, **k: (open({str(folder / 'begun')!r}, 'w').close(), time.sleep({seconds}),"
        " plain(*a, **k))[-1]\n"
    )
    return f"hydra.launcher.setup=['export PYTHONPATH={folder}:{ROOT}']"


def until(condition: Callable[[], Any], what: str, seconds: float = 90) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} does not come"
        time.sleep(0.1)
    return value


def middle_of_a_run(runs_root: Path, min_step: int = 20) -> Path:
    """A run's directory, once it has a checkpoint in its middle."""

    def look() -> Path | None:
        for path in runs_root.glob("*/*/checkpoints/step_*"):
            if int(path.name.split("_")[1]) >= min_step and (path / "training_state.pt").exists():
                return path.parent.parent
        return None

    return until(look, "a checkpoint")


def states(runs_root: Path) -> list[str]:
    return sorted(json.loads(path.read_text())["state"] for path in runs_root.glob("*/*/status.json"))


def undisturbed(runs_root: Path, *extra: str) -> dict[str, float]:
    """The final metrics of the same run in one go, in this process."""
    plain = [o for o in overrides(runs_root, *extra) if not o.startswith("hydra")]
    return training.results(training.train(plain))


def jobs(cluster: MiniSlurm) -> str:
    return cluster.call("squeue", "--noheader", "--array", "--format=%i %T %r %N")


def running_job(cluster: MiniSlurm) -> str:
    lines = cluster.call("squeue", "--noheader", "--array", "--states=running", "--format=%i %P").splitlines()
    (job,) = [line.split()[0] for line in lines if line.split()[1] == "main"]
    return job


pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(400)]

MANY = "experiment=stages_1,stages_2,stages_12,head_attention,head_none,proposal_init_grid"


def test_six_rows_two_at_a_time_from_an_allocation_and_again_without_work(cluster: MiniSlurm, runs_root: Path) -> None:
    arguments = overrides(runs_root, MANY, "num_stages", "hydra.launcher.array_parallelism=2")
    arguments.remove("num_stages")
    given = f"env > {runs_root.parent}/env_$SLURM_JOB_ID"
    arguments.append(f"hydra.launcher.setup=['{given}']")
    process = sweep(cluster, arguments, inside=("srun", "--ntasks=1", "--job-name=own"))
    most = 0
    while process.poll() is None:
        lines = cluster.call("squeue", "--noheader", "--array", "--states=running", "--format=%j").split()
        most = max(most, len(lines) - lines.count("own"))
        time.sleep(0.3)
    code, out, err = training.finish(process)
    assert code == 0, (out, err)
    assert states(runs_root) == ["finished"] * 6
    (file,) = runs_root.glob(".sweeps/*/jobs.json")
    arrays = [job.split("_")[0] for job in json.loads(file.read_text())["jobs"]]
    assert [arrays.count(array) for array in dict.fromkeys(arrays)] == [MAX_ARRAY_SIZE, 2]
    environments = [path.read_text() for path in runs_root.parent.glob("env_*")]
    assert len(environments) == 6
    assert not [text for text in environments if "SLURM_STEP_NUM_TASKS=" in text], "of the step that the sweep runs in"
    assert out.count("finished") == 6
    assert most == 2
    submitted = len(cluster.call("squeue", "--noheader", "--array", "--states=all").splitlines())
    code, out, err = training.finish(sweep(cluster, arguments), timeout=60)
    assert code == 0, (out, err)
    assert out.count("skipped") == 6
    assert len(cluster.call("squeue", "--noheader", "--array", "--states=all").splitlines()) == submitted


def test_a_failing_row_does_not_take_the_others_down(cluster: MiniSlurm, runs_root: Path) -> None:
    arguments = overrides(runs_root, "optim.lr=1e30,1e-3,2e-3")
    code, out, err = training.finish(sweep(cluster, arguments), timeout=200)
    assert code == 1, (out, err)
    assert states(runs_root) == ["failed", "finished", "finished"]
    assert "NonFiniteError" in out
    assert "error.log" in out
    assert "error: of 3 runs 1 failed" in err
    assert "Traceback" not in err
    assert "FAILED" in cluster.call("squeue", "--noheader", "--array", "--states=all", "--format=%i %T")
    code, out, err = training.finish(sweep(cluster, arguments), timeout=200)  # failed ones are tried again
    assert code == 1
    assert out.count("skipped") == 2


def test_a_preempted_job_is_requeued_and_ends_as_if_undisturbed(
    cluster: MiniSlurm, runs_root: Path, tmp_path: Path
) -> None:
    extra = (f"schedule.length={LONG}", "train.checkpoint_every=10")
    slow = slowed(tmp_path, "sparse_rcnn.engine.training_step", 0.1)
    process = sweep(cluster, overrides(runs_root, *extra, slow, "hydra.launcher.partition=main"))
    run = middle_of_a_run(runs_root)
    cluster.call("sbatch", "--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 3", "--output=/dev/null")
    code, out, err = training.finish(process, timeout=240)
    assert code == 0, (out, err)
    meta = json.loads((run / "meta.json").read_text())
    assert len(meta["resumes"]) == 1, "it was not interrupted"
    assert "stopped by SIG" in "".join(p.read_text() for p in runs_root.rglob("*_log.err"))
    assert training.results(run) == undisturbed(tmp_path, *extra)


def test_after_the_loss_of_a_node_the_run_goes_on_elsewhere(
    cluster: MiniSlurm, runs_root: Path, tmp_path: Path
) -> None:
    extra = (f"schedule.length={LONG}", "train.checkpoint_every=10")
    process = sweep(cluster, overrides(runs_root, *extra, slowed(tmp_path, "sparse_rcnn.engine.training_step", 0.1)))
    run = middle_of_a_run(runs_root)
    job = running_job(cluster)
    node = cluster.call("squeue", "--noheader", f"--jobs={job}", "--format=%N").strip()
    cluster.lose_node(node)
    try:
        code, out, err = training.finish(process, timeout=240)
    finally:
        cluster.start_node(node)
    assert code == 0, (out, err)
    assert json.loads((run / "meta.json").read_text())["resumes"]
    assert training.results(run) == undisturbed(tmp_path, *extra)
    until(lambda: cluster.idle_nodes() == 2, "the node")


def test_two_tasks_train_one_run(cluster: MiniSlurm, runs_root: Path, tmp_path: Path) -> None:
    two = ("hydra.launcher.tasks_per_node=2", "train.device=cpu", "optim.lr=2e-5")
    code, out, err = training.finish(sweep(cluster, overrides(runs_root, *two)), timeout=240)
    assert code == 0, (out, err)
    run = training.only_run(runs_root)
    assert json.loads((run / "meta.json").read_text())["world_size"] == 2
    nodes = ("hydra.launcher.nodes=2", "train.device=cpu", "optim.lr=2e-5")
    code, out, err = training.finish(sweep(cluster, overrides(tmp_path / "nodes", *nodes)), timeout=240)
    assert code == 0, (out, err)
    assert training.results(training.only_run(tmp_path / "nodes")) == pytest.approx(training.results(run), abs=1e-3)
    one = training.losses(training.train([o for o in overrides(tmp_path / "one", two[2]) if not o.startswith("hydra")]))
    for step in (1, 2, 3):
        loss = "train/loss/total"
        assert training.losses(run)[step][loss] == pytest.approx(one[step][loss], rel=1e-5)


def test_a_failure_on_the_second_task_fails_the_job(cluster: MiniSlurm, runs_root: Path) -> None:
    two = ("hydra.launcher.tasks_per_node=2", "optim.lr=1e30", "train.device=cpu")
    code, out, err = training.finish(sweep(cluster, overrides(runs_root, *two)), timeout=240)
    assert code == 1, (out, err)
    assert "NonFiniteError" in out
    assert states(runs_root) == ["failed"]


def test_a_job_that_dies_without_a_word_does_not_hang_the_sweep(
    cluster: MiniSlurm, runs_root: Path, tmp_path: Path
) -> None:
    slow = slowed(tmp_path, "sparse_rcnn.engine.training_step", 0.1)
    process = sweep(cluster, overrides(runs_root, f"schedule.length={LONG}", "train.checkpoint_every=10", slow))
    run = middle_of_a_run(runs_root)
    os.kill(json.loads((run / "lock_holder.json").read_text())["pid"], 9)
    code, out, err = training.finish(process, timeout=200)
    assert code == 1, (out, err)
    assert "without a result" in out
    assert "error: of 1 runs 1 failed" in err
    code, out, err = training.finish(sweep(cluster, overrides(runs_root, f"schedule.length={LONG}")), timeout=240)
    assert code == 0, (out, err)  # the next start goes on


def test_a_sweep_started_again_waits_for_the_jobs_it_has(cluster: MiniSlurm, runs_root: Path) -> None:
    arguments = overrides(runs_root, "seed=0,1,2", f"schedule.length={LONG}", "hydra.launcher.array_parallelism=1")
    process = sweep(cluster, arguments)
    middle_of_a_run(runs_root)
    process.send_signal(signal.SIGINT)
    code, out, err = training.finish(process, timeout=30)
    assert code == 1
    assert "the jobs go on without this process; to end them: scancel" in err
    known = sorted(cluster.call("squeue", "--noheader", "--array", "--states=all", "--format=%i").split())
    code, out, err = training.finish(sweep(cluster, arguments), timeout=240)
    assert code == 0, (out, err)
    assert sorted(cluster.call("squeue", "--noheader", "--array", "--states=all", "--format=%i").split()) == known
    assert states(runs_root) == ["finished"] * 3


def test_a_signal_in_the_last_evaluation_requeues_too(cluster: MiniSlurm, runs_root: Path, tmp_path: Path) -> None:
    arguments = overrides(runs_root, slowed(tmp_path, "sparse_rcnn.dataset_detection.detect", 60))
    process = sweep(cluster, arguments)
    until((tmp_path / "begun").exists, "the last evaluation")
    last = f"step_{training.NUM_STEPS:08d}"
    assert list(runs_root.glob(f"*/*/checkpoints/{last}/training_state.pt"))
    cluster.call("scancel", "--signal=USR2", running_job(cluster))
    code, out, err = training.finish(process, timeout=120)
    assert code == 0, (out, err)
    run = training.only_run(runs_root)
    assert len(json.loads((run / "meta.json").read_text())["resumes"]) == 1


def test_a_time_limit_is_no_end(cluster: MiniSlurm, runs_root: Path, tmp_path: Path) -> None:
    # SLURM rounds a limit up to a minute and may send the signal half a minute early: until it comes, steps are slow.
    extra = (f"schedule.length={LONG}", "train.checkpoint_every=10")
    limit = ("hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20")
    slow = slowed(tmp_path, "sparse_rcnn.engine.training_step", 1)
    process = sweep(cluster, overrides(runs_root, *extra, *limit, slow))
    code, out, err = training.finish(process, timeout=380)
    assert code == 0, (out, err)
    run = training.only_run(runs_root)
    assert json.loads((run / "meta.json").read_text())["resumes"], "it never came to its limit"
    assert training.results(run) == undisturbed(tmp_path, *extra)


def test_a_partition_that_does_not_exist_is_one_line(cluster: MiniSlurm, runs_root: Path) -> None:
    code, out, err = training.finish(sweep(cluster, overrides(runs_root, "hydra.launcher.partition=nosuch")))
    assert code == 1, (out, err)
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: hydra/launcher=slurm: sbatch refuses the jobs: ")
    assert "nvalid partition" in last
    assert not list(runs_root.glob("*/*"))


def test_a_class_in_the_folder_of_the_sweep_is_found_in_its_jobs(cluster: MiniSlurm, runs_root: Path) -> None:
    folder = runs_root.parent / "own"
    folder.mkdir()
    (folder / "my_layouts.py").write_text("from sparse_rcnn.box_init import ImageInit\n\nclass Own(ImageInit): pass\n")
    arguments = overrides(runs_root, "model.proposals.init._target_=my_layouts.Own")
    code, out, err = training.finish(sweep(cluster, arguments, folder))
    assert code == 0, (out, err)
    assert states(runs_root) == ["finished"]
