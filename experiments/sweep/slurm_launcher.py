"""Hydra's launcher for SLURM, on top of hydra-submitit-launcher: waits for jobs by asking SLURM about them itself."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

from experiments.config import schema
from experiments.sweep.job_environment import outside_of_allocations
from experiments.sweep.job_labels import job_names
from experiments.sweep.job_return import LoggedJobReturn
from experiments.sweep.slurm_queries import job_states, max_array_size
from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.json_files import write_json_atomic

POLL_SECONDS = 5.0
GRACE_SECONDS = 90.0  # a network file system may show a result that late
JOBS = "jobs.json"
LIVING_STATES = {
    "PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD",
    "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT", "STOPPED", "RESV_DEL_HOLD",
}  # fmt: skip


class SlurmJob(submitit_launcher.SlurmLauncher):
    """What is pickled and runs in the job: a class of its own, which keeps the name under which it is found again."""

    def __call__(self, *args: Any, **kwargs: Any) -> JobReturn:
        """Run the job, and raise what it raised, so that SLURM and submitit see it fail."""
        schema.register_resolvers()  # this process has unpickled the configuration and nothing else
        result = super().__call__(*args, **kwargs)
        result.return_value  # noqa: B018
        return result


class SlurmLauncher(submitit_launcher.SlurmLauncher):
    """One array job for all runs, or as many as the cluster's largest array needs; one task for each GPU of a run.

    What it adds to the plugin: a job that fails is FAILED to SLURM too; one job's failure does not hide the others';
    and a job that ends without a word (killed, node lost for good) is found by asking ``squeue``, so that the
    submitter never waits for ever, also where ``sacct`` does not work. Which jobs belong to which runs is kept, so that
    a sweep started again waits for those that still live and submits only the others.
    """

    def living_jobs(self) -> dict[tuple[str, ...], Any]:
        """The submitit jobs of earlier sweeps under the same root that wait or run, by their overrides."""
        import submitit

        assert self.config is not None
        known: dict[str, tuple[str, tuple[str, ...]]] = {}
        for file in Path(str(self.config.hydra.sweep.dir)).parent.glob(f"*/{JOBS}"):
            with suppress(OSError, ValueError, KeyError, TypeError):
                content = json.loads(file.read_text())
                known |= {job: (content["folder"], tuple(o)) for job, o in content["jobs"].items()}
        states = (job_states(list(known)) if known and shutil.which("squeue") else None) or {}
        living = {job: known[job] for job, state in states.items() if job in known and state in LIVING_STATES}
        return {overrides: submitit.SlurmJob(folder, job) for job, (folder, overrides) in living.items()}

    def check(self) -> None:
        """Whether this machine can submit jobs at all, asked before anything is made for them.

        Raises:
            UserError: it cannot; names the program that is missing, or what SLURM would not take as a folder.
        """
        assert self.config is not None
        if "%" in str(self.config.hydra.sweep.dir):
            raise UserError(
                f"hydra/launcher=slurm: SLURM replaces % in the names of logs, here in {self.config.hydra.sweep.dir}; "
                "choose another runs_root, or hydra.sweep.dir alone"
            )
        for program in ("sbatch", "squeue", "srun"):
            if shutil.which(program) is None:
                raise UserError(
                    f"hydra/launcher=slurm: {program} is not found on this machine; start the sweep on a login node "
                    "of the cluster, or choose hydra/launcher=local"
                )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs and wait for their ends; their results in the same order.

        Raises:
            UserError: there is no SLURM here, or it refuses the jobs; says why.
        """
        self.check()
        living = self.living_jobs()
        new = [overrides for overrides in job_overrides if tuple(overrides) not in living]
        submitted = self._submit(new, initial_job_idx) if new else []
        jobs = living | {tuple(overrides): job for overrides, job in zip(new, submitted, strict=True)}
        names = job_names(job_overrides)
        watched = [_Watched(jobs[tuple(o)], list(o), name) for o, name in zip(job_overrides, names, strict=True)]
        again = f", {len(watched) - len(new)} of an earlier sweep live" if len(new) < len(watched) else ""
        print(f"{len(new)} jobs submitted to SLURM{again}: {' '.join(_array_ids(watched))}", file=sys.stderr)
        try:
            self._wait(watched)
        except KeyboardInterrupt:
            ids = _array_ids([job for job in watched if job.result is None])
            print(f"the jobs go on without this process; to end them: scancel {' '.join(ids)}", file=sys.stderr)
            raise
        return [job.result for job in watched if job.result is not None]

    def _wait(self, watched: Sequence[_Watched]) -> None:
        while waiting := [job for job in watched if job.result is None]:
            states = job_states([job.id for job in waiting])
            for job in waiting:
                job.look(None if states is None else states.get(job.id, "GONE"))
                if job.result is not None:
                    num_done = sum(job.result is not None for job in watched)
                    print(f"[{num_done}/{len(watched)}] {job.describe()}", file=sys.stderr, flush=True)
            if any(job.result is None for job in watched):
                time.sleep(POLL_SECONDS)

    def _submit(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        assert self.config is not None
        sweep_dir = Path(str(self.config.hydra.sweep.dir))
        is_new = not sweep_dir.exists()
        job = SlurmJob(**self.params)
        job.setup(hydra_context=self.hydra_context, task_function=self.task_function, config=self.config)
        size = min(max_array_size() or len(job_overrides), len(job_overrides))
        # Each array counts its own jobs: it begins when an earlier one has ended, so that no more run than are meant.
        num_arrays_at_a_time = max(1, int(self.params.get("array_parallelism") or 1) // size)
        arrays: list[list[Any]] = []
        submitted: dict[str, list[str]] = {}
        for first in range(0, len(job_overrides), size):
            part = [list(overrides) for overrides in job_overrides[first : first + size]]
            index = initial_job_idx + first
            arguments = [
                (overrides, "hydra.sweep.dir", index + i, f"job_{index + i}", Singleton.get_state())
                for i, overrides in enumerate(part)
            ]
            before = arrays[-num_arrays_at_a_time] if len(arrays) >= num_arrays_at_a_time else None
            executor = self._executor(None if before is None else str(before[0].job_id).split("_")[0])
            try:
                with outside_of_allocations():
                    arrays.append(executor.map_array(job, *zip(*arguments, strict=True)))
            except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError) as error:
                # A submission whose answer was not understood may have been accepted: its files stay.
                if is_new and not submitted and not isinstance(error, FailedSubmissionError):
                    shutil.rmtree(sweep_dir, ignore_errors=True)
                raise UserError(_refusal(str(error), len(job_overrides), list(submitted))) from error
            submitted |= {str(job.job_id): o for job, o in zip(arrays[-1], part, strict=True)}
            write_json_atomic(sweep_dir / JOBS, {"folder": self.params["submitit_folder"], "jobs": submitted})
        return [job for array in arrays for job in array]

    def _executor(self, after: str | None) -> Any:
        """The executor of an array, whose jobs begin when the job ``after`` has ended."""
        import submitit

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
        params = {k: v for k, v in self.params.items() if k not in own}
        if after is not None:
            more = dict(params.get("additional_parameters") or {})
            given = more.get("dependency") or params.get("dependency")
            more["dependency"] = ",".join(filter(None, (f"afterany:{after}", given)))
            params["additional_parameters"] = more
        executor.update_parameters(**{k if k in shared else f"slurm_{k}": v for k, v in params.items()})
        return executor


def _refusal(error: str, num_jobs: int, submitted: Sequence[str]) -> str:
    said = [line.split("error:", 1)[1].strip() for line in error.splitlines() if "error:" in line]
    reason = ": ".join(dict.fromkeys(said)) or error.splitlines()[-1].strip()
    message = f"hydra/launcher=slurm: sbatch refuses the jobs: {reason}"
    if re.search(r"MaxSubmit|submit limit", error):
        message += f"; {num_jobs - len(submitted)} are more than you may have there now: start fewer rows at a time"
    if submitted:
        ids = " ".join(dict.fromkeys(job.split("_")[0] for job in submitted))
        message += (
            f"; {len(submitted)} of {num_jobs} are submitted and go on: start the sweep again to submit the others, or "
            f"end them with scancel {ids}"
        )
    return message


def _array_ids(watched: Sequence[_Watched]) -> list[str]:
    return list(dict.fromkeys(job.id.split("_")[0] for job in watched))


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
        living = state is None or state in LIVING_STATES
        outcome, value = self._read_result()
        if outcome == "success":
            self.result = LoggedJobReturn(overrides=self.overrides, status=JobStatus.COMPLETED)
            self.result.return_value = None
            self.result.log = Path(self.job.paths.stderr)
        elif outcome == "error" and not living:  # while it lives, SLURM may be about to start it again
            self._fail(([line for line in value.splitlines() if line.strip()] or ["it failed"])[-1])
        elif living:
            self._gone_since = None
        elif self._gone_since is None:
            self._gone_since, self._gone_state = time.monotonic(), str(state)
        elif time.monotonic() - self._gone_since > GRACE_SECONDS:
            self._fail(f"the job ended as {self._gone_state} without a result")

    def _read_result(self) -> tuple[str | None, Any]:
        try:
            outcome, value = cloudpickle.loads(self.job.paths.result_pickle.read_bytes())
        except Exception:  # not there yet, or not all of it: the grace period ends that
            return None, None
        return outcome, value

    def _fail(self, message: str) -> None:
        self.result = LoggedJobReturn(overrides=self.overrides, status=JobStatus.FAILED)
        self.result.return_value = RuntimeError(f"SLURM job {self.id}: {message}")
        self.result.log = Path(self.job.paths.stderr)

    def describe(self) -> str:
        assert self.result is not None
        end = "done" if self.result.status is JobStatus.COMPLETED else str(self.result._return_value)
        return f"{self.name}: {end}"
