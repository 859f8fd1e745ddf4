"""The SLURM launcher against programs that answer as SLURM's do, at a clock of its own."""

from __future__ import annotations

import os
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
from experiments.sweep.slurm_launcher import SlurmLauncher, job_states
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
    hydra_plugins.register()
    config = compose_run("hydra/launcher=slurm", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    with initialize_config_dir(str(CONF), **version_base()):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks())
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    assert isinstance(launcher, SlurmLauncher)
    (result,) = launcher.launch([["a=1"]], 0)
    return result


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
