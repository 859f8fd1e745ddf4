"""The local launcher: a process for each job, and a GPU for each process."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.sweep.local_launcher import LocalLauncher, visible_gpus
from sparse_rcnn.errors import UserError


def test_visible_gpus_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, gpus in {"2,3": ["2", "3"], "": [], "-1": [], "GPU-abc": ["GPU-abc"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == gpus


# In place of the interpreter: notes its arguments and what it may use. Of a pair neither job ends before both began.
PROGRAM = """#!/bin/sh
for job; do :; done
printf '%s\\n' "$*" "${CUDA_VISIBLE_DEVICES-none}" "$OMP_NUM_THREADS" > "$RECORDS/.$job"
mv "$RECORDS/.$job" "$RECORDS/$job"
case $PAIRS$job in
    1seed=0) other=seed=1;; 1seed=1) other=seed=0;; 1seed=2) other=seed=3;; 1seed=3) other=seed=2;; *) other=$job;;
esac
while [ ! -e "$RECORDS/$other" ]; do sleep 0.01; done
"""


@dataclass(frozen=True)
class Begun:
    """What a job was started with."""

    arguments: list[str]
    gpus: str
    num_threads: str


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder into which jobs write what they were started with."""
    program, folder = tmp_path / "python", tmp_path / "records"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("RECORDS", str(folder))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))  # looks at the jobs more often
    return folder


def source(folder: str, provider: str) -> dict[str, str]:
    return {"path": folder, "schema": "file", "provider": provider}


def launch(records: Path, num_jobs: int | None, cores_per_job: int = 1, device: str = "auto") -> list[Begun]:
    """Four jobs, in the order of their seeds."""
    records.mkdir(exist_ok=True)
    for file in records.iterdir():
        file.unlink()
    local = LocalLauncher(num_jobs, cores_per_job)
    local.config = OmegaConf.create(
        {
            "train": {"device": device},
            "hydra": {
                "sweep": {"dir": str(records.parent / "logs")},
                "runtime": {"config_sources": [source("/mine", "command-line"), source("/conf", "main")]},
                "job": {"config_name": "own"},
                "overrides": {"hydra": ["hydra.launcher.num_jobs=2", "hydra.job.name=x"]},
            },
        }
    )
    results = local.launch([[f"seed={seed}"] for seed in range(4)], 0)
    assert [result.return_value for result in results] == [None] * 4
    lines = [(records / f"seed={seed}").read_text().splitlines() for seed in range(4)]
    return [Begun(words.split(), gpus, num_threads) for words, gpus, num_threads in lines]


def test_each_job_is_the_train_command_with_what_it_needs_of_the_sweeps(records: Path) -> None:
    of_sweep = ["-m", "experiments.train", "--config-path", "/conf", "--config-dir", "/mine"]
    of_sweep += ["--config-name", "own", "hydra.mode=RUN", "hydra.job.name=x"]
    assert [job.arguments for job in launch(records, 2)] == [[*of_sweep, f"seed={seed}"] for seed in range(4)]


def test_each_job_at_a_time_has_a_gpu_of_its_own(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    monkeypatch.setenv("PAIRS", "1")
    jobs = launch(records, None)
    assert {job.gpus for job in jobs[:2]} == {job.gpus for job in jobs[2:]} == {"4", "GPU-7"}
    assert len({job.num_threads for job in jobs}) == 1
    monkeypatch.delenv("PAIRS")
    assert {job.gpus for job in launch(records, 1)} == {"4"}
    with pytest.raises(UserError, match=r"num_jobs=3, but there are 2 GPUs"):
        launch(records, 3)


def test_jobs_on_the_cpu_have_their_cores(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-7")
    assert {(job.gpus, job.num_threads) for job in launch(records, 3, device="cpu")} == {("4,GPU-7", "1")}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [(job.gpus, job.num_threads) for job in launch(records, 2, 3)] == [("", "3")] * 4


def test_a_job_is_no_rank_of_the_allocation_that_the_sweep_runs_in(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(sys.executable)
    program.write_text(program.read_text().replace("printf", 'env > "$RECORDS/../env"\nprintf', 1))
    foreign = ("SLURM_JOB_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "RANK", "WORLD_SIZE", "SUBMITIT_EXECUTOR")
    for name in (*foreign, "SLURM_CONF", "SLURM_RESTART_COUNT"):
        monkeypatch.setenv(name, "2")
    launch(records, 1)
    given = {line.split("=", 1)[0] for line in (records.parent / "env").read_text().splitlines()}
    assert given & set(foreign) == set()
    assert {"SLURM_CONF", "SLURM_RESTART_COUNT"} <= given
