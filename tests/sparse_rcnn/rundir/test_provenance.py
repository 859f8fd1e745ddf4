"""Where a run came from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sparse_rcnn.rundir.provenance import git_state


def test_git_state_of_a_repository_and_of_none(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"sha": None, "dirty": None}
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "first"]):
        try:
            subprocess.run(["git", "-C", str(tmp_path), *command], check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("git is not installed")
    state = git_state(tmp_path)
    assert len(state["sha"]) == 40
    assert state["dirty"] is False
    (tmp_path / "new.py").write_text("")
    assert git_state(tmp_path)["dirty"] is True
