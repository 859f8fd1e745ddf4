"""Hydra's launcher for one machine: every run in a process of its own, several side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.job_names import job_names
from sparse_rcnn.errors import UserError

POLL_SECONDS = 0.2


class LocalLauncher(Launcher):
    """Starts ``python -m experiments.train`` for every job, at most ``num_jobs`` at a time.

    A process that dies takes no other with it. With GPUs each job sees one of its own. Ctrl-C and SIGTERM are handed
    on once: the runs save, end, and are gone on with when the sweep is started again.

    Args:
        num_jobs: how many at a time; null: one for each GPU, without GPUs one for each ``cores_per_job`` cores.
        cores_per_job: threads of each job on a CPU.
    """

    def __init__(self, num_jobs: int | None, cores_per_job: int) -> None:
        if (num_jobs is not None and num_jobs < 1) or cores_per_job < 1:
            raise ValueError(f"num_jobs and cores_per_job must be at least 1, got {num_jobs} and {cores_per_job}")
        self.num_jobs, self.cores_per_job = num_jobs, cores_per_job
        self.config: DictConfig | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs; their results in the same order."""
        assert self.config is not None
        folder = Path(self.config.hydra.sweep.dir)
        gpus = visible_gpus()
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_jobs = self.num_jobs or len(gpus) or max(1, num_cores // self.cores_per_job)
        num_jobs = min(num_jobs, len(job_overrides))
        if gpus and num_jobs > len(gpus):
            raise UserError(
                f"hydra.launcher.num_jobs={num_jobs}, but there are {len(gpus)} GPUs here: one for each job"
            )
        jobs = [
            _Job(folder, initial_job_idx + i, list(overrides), name)
            for i, (overrides, name) in enumerate(zip(job_overrides, job_names(job_overrides), strict=True))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        waiting, running, free = list(jobs), list[_Job](), list(range(num_jobs))
        print(f"{len(jobs)} runs, {num_jobs} at a time; logs in {folder}", file=sys.stderr)
        with _Signals() as signals:
            while (waiting and not signals.number) or running:
                while waiting and free and not signals.number:
                    job, slot = waiting.pop(0), free.pop(0)
                    job.start(slot, gpus[slot] if gpus else None, None if gpus else self.cores_per_job)
                    running.append(job)
                if signals.number and not signals.handed_on:
                    signals.handed_on = True
                    for job in running:
                        job.stop(signals.number)
                for job in [job for job in running if job.is_done]:
                    running.remove(job)
                    free.append(job.slot)
                    num_done = len(jobs) - len(waiting) - len(running)
                    print(f"[{num_done}/{len(jobs)}] {job.describe()}", file=sys.stderr, flush=True)
                time.sleep(POLL_SECONDS)
        if signals.number:
            raise KeyboardInterrupt
        return [job.result() for job in jobs]


class _Job:
    def __init__(self, folder: Path, index: int, overrides: list[str], name: str) -> None:
        self.overrides, self.name = overrides, name
        label = re.sub(r"[^A-Za-z0-9_=.,-]+", "_", self.name)[:80]
        self.log = folder / f"{index:03d}_{label}.log"
        self.slot = -1

    def start(self, slot: int, gpu: str | None, num_threads: int | None) -> None:
        self.slot, self.started = slot, time.monotonic()
        environment = dict(os.environ)
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        if num_threads is not None:
            environment["OMP_NUM_THREADS"] = str(num_threads)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiments.train", *self.overrides],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C on the terminal reaches it once, from here
            )

    def stop(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    @property
    def is_done(self) -> bool:
        return self.process.poll() is not None

    def describe(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        end = "done" if self.process.returncode == 0 else self.error
        return f"{self.name}: {end} ({minutes}:{seconds:02d})"

    @property
    def error(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        code = self.process.returncode
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return said[-1] if said and code > 0 else ended

    def result(self) -> JobReturn:
        result = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        result.return_value = None
        if self.process.returncode:
            result.status = JobStatus.FAILED
            result.return_value = RuntimeError(self.error)
        result.log = self.log  # type: ignore[attr-defined]
        return result


class _Signals:
    """Remembers a SIGINT or SIGTERM instead of dying of it."""

    def __init__(self) -> None:
        self.number, self.handed_on = 0, False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        self.number, self.handed_on = number, False

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; without loading CUDA here."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
