"""Runs found under any folder above them, and the folders beside them that are none."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.errors import RunError
from sparse_rcnn.rundir.find import find_foreign_folders, find_runs
from tests.support.runs import make_bare_run, write_json


def paths(root: Path) -> list[Path]:
    return [run.path for run in find_runs(root)]


def test_runs_are_found_from_any_folder_above_them(tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    first, second = (make_bare_run(roots / "one", "a", f"0123456789ab-seed{seed}") for seed in range(2))
    other = make_bare_run(roots / "one", "b")
    nested = make_bare_run(roots / "two" / "runs", "a")
    beside = make_bare_run(roots, "c")
    write_json(first / "checkpoints" / "copy" / "meta.json", json.loads((second / "meta.json").read_text()))
    make_bare_run(roots / ".sweeps", "a")
    assert paths(roots) == [beside, first, second, other, nested]
    assert paths(roots / "one") == [first, second, other]
    assert paths(roots / "one" / "a") == [first, second]
    assert paths(first) == [first]
    assert paths(tmp_path) == [beside, first, second, other], "four folders down, and nested is five"


def test_a_run_that_two_paths_lead_to_is_found_once(tmp_path: Path) -> None:
    first = make_bare_run(tmp_path, "a")
    (tmp_path / "latest").symlink_to(first)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert paths(tmp_path) == [first]
    assert find_foreign_folders(tmp_path) == []


def test_folders_of_others_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_bare_run(tmp_path, "a")
    (tmp_path / "b" / "c").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path: Path) -> Any:
        if path.name == "b":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert paths(tmp_path) == [first]
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(RunError, match="cannot be read: you have no permission to"):
        find_runs(tmp_path)


def test_foreign_folders_neither_hold_runs_nor_lie_in_one(tmp_path: Path) -> None:
    make_bare_run(tmp_path / "nested" / "runs", "a")
    in_the_root = make_bare_run(tmp_path, ".", "0123456789ab-seed7")
    (in_the_root / "checkpoints").mkdir()
    (tmp_path / "b" / "half-created").mkdir(parents=True)
    assert find_foreign_folders(tmp_path) == [tmp_path / "b"]
    assert find_foreign_folders(in_the_root) == []
    write_json(tmp_path / "b" / "meta.json", {"something": "else"})
    assert find_foreign_folders(tmp_path / "b") == [tmp_path / "b"]


def test_runs_are_found_and_foreign_folders_listed_apart(tmp_path: Path) -> None:
    first = make_bare_run(tmp_path, "a", "0123456789ab-seed1")
    second = make_bare_run(tmp_path, "b")
    half_created = tmp_path / "b" / "half-created"
    write_json(half_created / "config.json", {})
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "a" / ".hidden").mkdir()
    assert [run.path for run in find_runs(tmp_path)] == [first, second]
    assert find_foreign_folders(tmp_path) == [half_created]
    assert [run.path for run in find_runs(first)] == [first]
    with pytest.raises(RunError, match="absent does not exist"):
        find_runs(tmp_path / "absent")
