"""Hydra's launcher for SLURM, on top of hydra-submitit-launcher: waits for jobs by asking SLURM about them itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from experiments.job_names import job_names
from sparse_rcnn.errors import UserError

POLL_SECONDS = 5.0
GRACE_SECONDS = 30.0  # a file system may show a result that late
LIVING_STATES = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
}  # fmt: skip


class SlurmJob(submitit_launcher.SlurmLauncher):
    """What is pickled and runs in the job: a class of its own, which keeps the name under which it is found again."""

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Run the job, and raise what it raised, so that SLURM and submitit see it fail."""
        result = super().__call__(*args, **kwargs)
        result.return_value  # noqa: B018
        return result


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """One array job for all runs, one task for each GPU of a run.

    What it adds to the plugin: a job that fails is FAILED to SLURM too; one job's failure does not hide the others';
    and a job that ends without a word (killed, node lost for good) is found by asking ``squeue``, so that the
    submitter never waits for ever, also where ``sacct`` does not work.
    """

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs and wait for their ends; their results in the same order.

        Raises:
            UserError: there is no SLURM here, or it refuses the jobs; says why.
        """
        for program in ("sbatch", "squeue"):
            if shutil.which(program) is None:
                raise UserError(
                    f"hydra/launcher=slurm: {program} is not found on this machine; start the sweep on a login node "
                    "of the cluster, or choose hydra/launcher=local"
                )
        jobs = self._submit(job_overrides, initial_job_idx)
        ids = [str(job.job_id) for job in jobs]
        print(f"{len(jobs)} jobs submitted to SLURM: {', '.join(ids)}", file=sys.stderr, flush=True)
        names = job_names(job_overrides)
        watched = [_Watched(*each) for each in zip(jobs, map(list, job_overrides), names, strict=True)]
        while waiting := [job for job in watched if job.result is None]:
            states = job_states([job.id for job in waiting])
            for job in waiting:
                job.look(None if states is None else states.get(job.id, "GONE"))
                if job.result is not None:
                    num_done = sum(job.result is not None for job in watched)
                    print(f"[{num_done}/{len(jobs)}] {job.describe()}", file=sys.stderr, flush=True)
            if any(job.result is None for job in watched):
                time.sleep(POLL_SECONDS)
        return [job.result for job in watched if job.result is not None]

    def _submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        assert self.config is not None
        own = {"submitit_folder", "max_num_timeout"}
        shared = {
            "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name",
            "stderr_to_stdout",
        }  # fmt: skip
        executor = submitit.AutoExecutor(
            cluster="slurm",
            folder=self.params["submitit_folder"],
            slurm_max_num_timeout=self.params["max_num_timeout"],
        )
        executor.update_parameters(
            **{k if k in shared else f"slurm_{k}": v for k, v in self.params.items() if k not in own}
        )
        arguments = [
            (list(overrides), "hydra.sweep.dir", initial_job_idx + i, f"job_{initial_job_idx + i}")
            for i, overrides in enumerate(job_overrides)
        ]
        job = SlurmJob(**self.params)
        job.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        try:
            return executor.map_array(job, *zip(*[(*a, Singleton.get_state()) for a in arguments], strict=True))
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
            shutil.rmtree(str(self.config.hydra.sweep.dir), ignore_errors=True)  # it was made for these jobs alone
            said = [line for line in str(error).splitlines() if "error:" in line] or str(error).splitlines()
            raise UserError(f"hydra/launcher=slurm: sbatch refuses the jobs: {said[-1].strip()}") from error


class _Watched:
    """A submitted job and, once it has ended, its result."""

    def __init__(self, job: Any, overrides: list[str], name: str) -> None:
        self.job, self.overrides, self.name = job, overrides, name
        self.id = str(job.job_id)
        self.result: JobReturn | None = None
        self._gone_since: float | None = None
        self._gone_state = ""

    def look(self, state: str | None) -> None:
        """Take note of the state SLURM gives; None where SLURM does not answer, which says nothing."""
        if self.job.paths.result_pickle.exists():
            self._finish()
        elif state is None or state in LIVING_STATES:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since, self._gone_state = time.monotonic(), state
        elif time.monotonic() - self._gone_since > GRACE_SECONDS:
            self._fail(f"the job ended as {self._gone_state} without a result")

    def _finish(self) -> None:
        outcome, value = cloudpickle.loads(self.job.paths.result_pickle.read_bytes())
        if outcome == "error":
            self._fail(([line for line in value.splitlines() if line.strip()] or ["it failed"])[-1])
            return
        self.result = JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
        self.result.return_value = None
        self.result.log = Path(self.job.paths.stderr)

    def _fail(self, message: str) -> None:
        self.result = JobReturn(overrides=self.overrides, status=JobStatus.FAILED)
        self.result.return_value = RuntimeError(f"SLURM job {self.id}: {message}")
        self.result.log = Path(self.job.paths.stderr)

    def describe(self) -> str:
        assert self.result is not None
        end = "done" if self.result.status is JobStatus.COMPLETED else str(self.result._return_value)
        return f"{self.name}: {end}"


def job_states(ids: Sequence[str]) -> dict[str, str] | None:
    """The state of each job that SLURM still knows, or None where it does not answer."""
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(ids)}", "--format=%i|%T"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    return dict(line.split("|", 1) for line in answer.stdout.splitlines() if "|" in line)
