"""Nothing of ours is deprecated in the installed Hydra, 1.3 or 1.4: every warning is an error here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import training

# The variable makes Hydra 1.4 raise its own; the interpreter's filter goes on to the processes of a launcher.
STRICT = {"HYDRA_DEPRECATION_WARNINGS_AS_ERRORS": "1", "PYTHONWARNINGS": "error"}


def train(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.train", *arguments],
        cwd=folder,
        env=training.environment(**STRICT),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("launcher", ["basic", "local", "slurm"])
def test_composing_warns_of_nothing(launcher: str, tmp_path: Path) -> None:
    assert "_target_: sparse_rcnn.detector.SparseRCNN" in train(tmp_path, "--cfg", "job", f"hydra/launcher={launcher}")


@pytest.mark.slow
def test_a_multirun_warns_of_nothing(tmp_path: Path) -> None:
    def sweep(launcher: str) -> list[str]:
        out = train(tmp_path, "-m", *training.overrides(tmp_path / "runs", "seed=0,1", f"hydra/launcher={launcher}"))
        return [word for word in out.split() if word in ("finished", "skipped")]

    assert sweep("local") == ["finished", "finished"]  # each in a process of its own
    assert sweep("slurm") == ["skipped", "skipped"]  # made, and left without work
    assert sweep("basic") == ["skipped", "skipped"]


@pytest.mark.slow
def test_a_run_in_this_process_warns_of_nothing(tmp_path: Path) -> None:
    assert "run directory:" in train(tmp_path, *training.overrides(tmp_path / "runs"))
