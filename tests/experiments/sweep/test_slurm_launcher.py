"""The SLURM launcher against programs that answer as SLURM's do, at a clock of its own."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext

from experiments.cli.hydra_entry import version_base
from experiments.sweep import hydra_plugins
from experiments.sweep.job_environment import of_a_new_job
from experiments.sweep.slurm_launcher import SlurmLauncher
from experiments.sweep.slurm_queries import job_states, max_array_size
from sparse_rcnn.errors import UserError
from tests.support.configs import CONF, compose_run


def program(folder: Path, name: str, answer: str) -> None:
    """A shell script in place of one of SLURM's programs."""
    (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


class Cluster:
    """SLURM as a script of (seconds, state of the job): ``squeue`` tells it, and waiting moves the clock on.

    ``seconds`` is how long the launcher has waited so far.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, script: list[tuple[float, str]]) -> None:
        self.folder, self.script, self.seconds = folder, script, 0.0
        program(folder, "sbatch", "echo 'Submitted batch job 7'")
        program(folder, "srun", "exit 1")
        monkeypatch.setattr(time, "monotonic", lambda: self.seconds)
        monkeypatch.setattr(time, "sleep", self.sleep)
        self.sleep(0)

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        state = [state for since, state in self.script if since <= self.seconds][-1]
        answer = "exit 1" if state == "no answer" else f"echo '7|{state}'"
        program(self.folder, "squeue", answer)


def task(cfg: Any) -> None:
    raise AssertionError("nothing is run here")


def launch(tmp_path: Path) -> JobReturn:
    """How the one job of a sweep ends."""
    (result,) = launcher(tmp_path).launch([["a=1"]], 0)
    return result


def launcher(tmp_path: Path, *overrides: str) -> SlurmLauncher:
    hydra_plugins.register()
    config = compose_run("hydra/launcher=slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}", *overrides)
    with initialize_config_dir(str(CONF), **version_base()):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    made = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    assert isinstance(made, SlurmLauncher)
    return made


@pytest.mark.parametrize(
    ("script", "gone_since"),
    [
        # Where SLURM does not answer, the job may live again: what it said before does not count.
        ([(0, "RUNNING"), (5, "FAILED"), (20, "no answer"), (25, "NODE_FAIL")], 25),
        ([(0, "PENDING"), (5, "TIMEOUT"), (50, "REQUEUED"), (60, "NODE_FAIL")], 60),
    ],
)
def test_a_job_is_given_up_only_when_slurm_does_not_know_it_for_a_while(
    tmp_path: Path,
    bin_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: list[tuple[float, str]],
    gone_since: float,
) -> None:
    cluster = Cluster(bin_folder, monkeypatch, script)
    result = launch(tmp_path)
    assert result.status is JobStatus.FAILED
    with pytest.raises(RuntimeError, match="SLURM job 7: the job ended as NODE_FAIL without a result"):
        result.return_value  # noqa: B018
    assert gone_since + 90 <= cluster.seconds < gone_since + 100


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


# Numbers its submissions, keeps each script and the environment that it was given, and takes LIMIT jobs.
SBATCH = """
cd "$RECORDS"
number=$(($(ls | grep -c script) + 1))
if [ "$number" -gt "${LIMIT-99}" ]; then
    echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2
    echo 'sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)' >&2
    exit 1
fi
cp "$1" script$number; env > env$number
echo "Submitted batch job $number"
"""


@pytest.fixture
def submissions(tmp_path: Path, bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what was submitted to a SLURM whose arrays have three jobs; all end at once, without a result."""
    folder = tmp_path / "submissions"
    folder.mkdir()
    monkeypatch.setenv("RECORDS", str(folder))
    program(bin_folder, "sbatch", SBATCH)
    program(bin_folder, "srun", "exit 1")
    program(bin_folder, "squeue", "true")
    program(bin_folder, "scontrol", "echo 'MaxArraySize            = 3'")
    seconds = iter(range(0, 10**6, 50))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return folder


def flags(submissions: Path, name: str) -> list[str | None]:
    """A flag of each script that was submitted."""
    scripts = [submissions / f"script{i + 1}" for i in range(len(list(submissions.glob("script*"))))]
    found = [re.search(rf"^#SBATCH --{name}=(.*)$", script.read_text(), re.MULTILINE) for script in scripts]
    return [match and match[1] for match in found]


@pytest.mark.parametrize(
    ("parallelism", "dependencies"),
    [
        (2, [None, "afterany:1", "afterany:2"]),
        (6, [None, None, "afterany:1"]),
        (100, [None, None, None]),
    ],
)
def test_more_jobs_than_an_array_takes_are_several_arrays(
    tmp_path: Path, submissions: Path, parallelism: int, dependencies: list[str | None]
) -> None:
    made = launcher(tmp_path, f"hydra.launcher.array_parallelism={parallelism}")
    jobs = [[f"a={i}"] for i in range(7)]
    results = made.launch(jobs, 0)
    assert [list(result.overrides or ()) for result in results] == jobs
    at_a_time = min(parallelism, 3)
    assert flags(submissions, "array") == [f"0-2%{at_a_time}", f"0-2%{at_a_time}", None]
    assert flags(submissions, "dependency") == dependencies
    known = json.loads((tmp_path / "sweep" / "jobs.json").read_text())["jobs"]
    assert list(known) == ["1_0", "1_1", "1_2", "2_0", "2_1", "2_2", "3"]
    assert list(known.values()) == jobs


def test_a_dependency_of_the_users_stays(tmp_path: Path, submissions: Path) -> None:
    given = "+hydra.launcher.additional_parameters.dependency='afterok:77'"
    launcher(tmp_path, given, "hydra.launcher.array_parallelism=1").launch([[f"a={i}"] for i in range(4)], 0)
    assert flags(submissions, "dependency") == ["afterok:77", "afterany:1,afterok:77"]
    assert "requeue" in (submissions / "script2").read_text()


def test_a_limit_of_jobs_is_one_line_and_what_is_submitted_is_kept(
    tmp_path: Path, submissions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMIT", "1")
    with pytest.raises(UserError) as caught:
        launcher(tmp_path).launch([[f"a={i}"] for i in range(5)], 0)
    assert str(caught.value) == (
        "hydra/launcher=slurm: sbatch refuses the jobs: AssocMaxSubmitJobLimit: Batch job submission failed: Job "
        "violates accounting/QOS policy (job submit limit); 2 are more than you may have there now: start fewer rows "
        "at a time; 3 of 5 are submitted and go on: start the sweep again to submit the others, or end them with "
        "scancel 1"
    )
    assert list(json.loads((tmp_path / "sweep" / "jobs.json").read_text())["jobs"]) == ["1_0", "1_1", "1_2"]
    monkeypatch.setenv("LIMIT", "0")
    with pytest.raises(UserError, match=r"; 5 are more than you may have there now: start fewer rows at a time$"):
        launcher(tmp_path / "other").launch([[f"a={i}"] for i in range(5)], 0)
    assert not (tmp_path / "other" / "sweep").exists()


def test_jobs_know_nothing_of_the_allocation_that_they_are_submitted_from(
    tmp_path: Path, submissions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {
        "SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "700", "SLURM_CPU_BIND": "none", "SLURM_PROCID": "1", "RANK": "1",
        "WORLD_SIZE": "2", "PMI_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "SUBMITIT_EXECUTOR": "slurm",
        "CUDA_VISIBLE_DEVICES": "3",
    }  # fmt: skip
    own = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "mine", "HOME": "/home/me"}
    for name, value in {**foreign, **own}.items():
        monkeypatch.setenv(name, value)
    launcher(tmp_path).launch([["a=1"]], 0)
    given = dict(line.split("=", 1) for line in (submissions / "env1").read_text().splitlines() if "=" in line)
    assert foreign.keys() & given.keys() == set()
    assert {name: given[name] for name in own} == own
    assert os.environ["SLURM_JOB_ID"] == "7"


def test_what_one_exports_for_slurm_stays_outside_of_an_allocation() -> None:
    environ = {"SLURM_ACCOUNT": "mine", "RANK": "0", "CUDA_VISIBLE_DEVICES": "1"}
    assert of_a_new_job(environ) == {"SLURM_ACCOUNT": "mine", "CUDA_VISIBLE_DEVICES": "1"}


def test_a_percent_sign_in_the_folder_is_refused(tmp_path: Path, submissions: Path) -> None:
    with pytest.raises(UserError, match=r"SLURM replaces % in the names of logs, here in .*/50%/sweep"):
        launcher(tmp_path / "50%").launch([["a=1"]], 0)


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        ("echo 'MaxArraySize            = 1001'; echo 'SchedulerParameters = a=1,max_array_tasks=200,b'", 200),
        ("echo 'MaxArraySize            = 0'", 1),
        ("echo nothing", None),
        ("exit 1", None),
    ],
)
def test_the_largest_array(bin_folder: Path, answer: str, size: int | None) -> None:
    program(bin_folder, "scontrol", answer)
    assert max_array_size() == size
