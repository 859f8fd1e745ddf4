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
from omegaconf import DictConfig, OmegaConf

from experiments.sweep.job_environment import of_a_new_job
from experiments.sweep.job_labels import job_names
from experiments.sweep.job_return import LoggedJobReturn
from sparse_rcnn.errors import UserError

POLL_SECONDS = 0.2


class LocalLauncher(Launcher):
    """Starts ``python -m experiments.train`` for every job, at most ``num_jobs`` at a time.

    A process that dies takes no other with it. With GPUs each job sees one of its own. Ctrl-C, SIGTERM and a closed
    terminal are handed on once: the runs save, end, and are gone on with when the sweep is started again.

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
        gpus = [] if OmegaConf.select(self.config, "train.device") == "cpu" else visible_gpus()
        num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_jobs = self.num_jobs or len(gpus) or max(1, num_cores // self.cores_per_job)
        num_jobs = min(num_jobs, len(job_overrides))
        if gpus and num_jobs > len(gpus):
            raise UserError(f"hydra.launcher.num_jobs={num_jobs}, but there are {len(gpus)} GPUs, one for each job")
        num_threads = max(1, num_cores // num_jobs) if gpus else self.cores_per_job
        program = [sys.executable, "-m", "experiments.train", *hydra_arguments(self.config)]
        jobs = [
            _Job(folder, initial_job_idx + i, [*program, *overrides], list(overrides), name)
            for i, (overrides, name) in enumerate(zip(job_overrides, job_names(job_overrides), strict=True))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{len(jobs)} runs, {num_jobs} at a time; logs in {folder}", file=sys.stderr)
        with _Signals() as signals:
            try:
                self._run(jobs, num_jobs, gpus, num_threads, signals)
            finally:
                _end(jobs)
        if signals.number:
            raise KeyboardInterrupt
        return [job.result() for job in jobs]

    def _run(
        self, jobs: Sequence[_Job], num_jobs: int, gpus: Sequence[str], num_threads: int, signals: _Signals
    ) -> None:
        waiting, running, free = list(jobs), list[_Job](), list(range(num_jobs))
        while (waiting and not signals.number) or running:
            while waiting and free and not signals.number:
                job, slot = waiting.pop(0), free.pop(0)
                job.start(slot, gpus[slot] if gpus else None, num_threads)
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


def _end(jobs: Sequence[_Job]) -> None:
    """Leave no process behind, whatever happened: those that still run save and end."""
    living = [job for job in jobs if job.process is not None and not job.is_done]
    for job in living:
        job.stop(signal.SIGTERM)
    for job in living:
        assert job.process is not None
        job.process.wait()


def hydra_arguments(config: DictConfig) -> list[str]:
    """The part of the sweep's own command line that a job needs: the place of its configuration, Hydra's settings."""
    hydra, words = config.hydra, list[str]()
    for option, provider in (("--config-path", "main"), ("--config-dir", "command-line")):
        for source in hydra.runtime.config_sources:
            if source.provider == provider:
                folder = source.path if source.schema == "file" else f"{source.schema}://{source.path}"
                words += [option, folder]
    of_sweep = ("hydra.mode", "hydra.sweep", "hydra/sweeper", "hydra.sweeper", "hydra/launcher", "hydra.launcher")
    settings = [override for override in hydra.overrides.hydra if not override.startswith(of_sweep)]
    # The configuration itself may ask for sweeps: a job is none.
    return [*words, "--config-name", hydra.job.config_name, "hydra.mode=RUN", *settings]


class _Job:
    def __init__(self, folder: Path, index: int, command: list[str], overrides: list[str], name: str) -> None:
        self.command, self.overrides, self.name = command, overrides, name
        self.process: subprocess.Popen[bytes] | None = None
        label = re.sub(r"[^A-Za-z0-9_=.,-]+", "_", self.name)[:80]
        self.log = folder / f"{index:03d}_{label}.log"
        self.slot = -1

    def start(self, slot: int, gpu: str | None, num_threads: int) -> None:
        self.slot, self.started = slot, time.monotonic()
        # A requeued job's processes may still be ending elsewhere: the lock of a run is waited for then.
        environment = of_a_new_job(os.environ, keep={"SLURM_RESTART_COUNT"})
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        environment["OMP_NUM_THREADS"] = str(num_threads)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # a Ctrl-C on the terminal reaches it once, from here
            )

    def stop(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    @property
    def is_done(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def describe(self) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        assert self.process is not None
        end = "done" if self.process.returncode == 0 else self.error
        return f"{self.name}: {end} ({minutes}:{seconds:02d})"

    @property
    def error(self) -> str:
        try:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
        assert self.process is not None
        code = self.process.returncode
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return said[-1] if said and code > 0 else ended

    def result(self) -> JobReturn:
        result = LoggedJobReturn(overrides=self.overrides, status=JobStatus.COMPLETED, log=self.log)
        result.return_value = None
        assert self.process is not None
        if self.process.returncode:
            result.status = JobStatus.FAILED
            result.return_value = RuntimeError(self.error)
        return result


class _Signals:
    """Remembers a SIGINT, SIGTERM or SIGHUP (a closed terminal) instead of dying of it."""

    def __init__(self) -> None:
        self.number, self.handed_on = 0, False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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
        names = [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
        return [name for name in names if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(i) for i in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]
