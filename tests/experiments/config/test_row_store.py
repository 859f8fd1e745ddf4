"""Rows from the cache are those that compose, and no others are taken for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.config.row_store import NUM_KEPT, RowStore, cache_folder, open_store
from tests.support.paths import ROOT


def conf(folder: Path, text: str = "num_stages: 1\n") -> tuple[str, ...]:
    (folder / "experiment").mkdir(parents=True, exist_ok=True)
    (folder / "experiment" / "short.yaml").write_text(text)
    return ("hydra.conf", str(folder))


def opened(folders: tuple[str, ...], *key: str) -> RowStore:
    open_store.cache_clear()
    return open_store(folders, *key)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    open_store.cache_clear()


def unexpected() -> Any:
    raise AssertionError("composed again")


def test_what_was_composed_is_read_again(tmp_path: Path) -> None:
    folders = conf(tmp_path / "conf")
    store = opened(folders, "mini", "train")
    row = {"config": {"lr": 2.5e-5, "none": None, "sides": [1, 2.0]}, "has_user_data": False}
    assert store.get("short", lambda: row) == row
    assert store.get("broken", lambda: None) is None
    store.save()
    again = opened(folders, "mini", "train")
    assert again.get("short", unexpected) == row
    assert again.get("broken", unexpected) is None
    again.save()  # nothing is new


@pytest.mark.parametrize("change", ["content", "file", "recipe", "folder"])
def test_another_configuration_is_another_file(tmp_path: Path, change: str) -> None:
    folders = conf(tmp_path / "conf")
    first = opened(folders, "mini")
    if change == "content":
        conf(tmp_path / "conf", "num_stages: 2\n")
    elif change == "file":
        (tmp_path / "conf" / "new.yaml").write_text("a: 1\n")
    elif change == "folder":
        folders = (*folders, str(tmp_path))
    second = opened(folders, "paper" if change == "recipe" else "mini")
    assert first.path != second.path


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${now:%Y}"])
def test_values_from_outside_are_not_kept(tmp_path: Path, value: str) -> None:
    store = opened(conf(tmp_path / "conf", f"a: {value}\n"))
    store.get("short", dict)
    store.save()
    assert store.path is None
    assert not cache_folder().exists()
    within_hydra = opened(conf(tmp_path / "conf", f"hydra:\n  dir: {value}\nnum_stages: 1\n"))
    assert within_hydra.path is not None


def test_a_package_whose_files_are_not_seen_is_not_kept(tmp_path: Path) -> None:
    assert opened(("some_package", str(tmp_path))).path is None


def test_a_broken_file_and_a_folder_that_cannot_be_written_cost_time_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = conf(tmp_path / "conf")
    store = opened(folders)
    assert store.path is not None
    store.path.parent.mkdir(parents=True)
    store.path.write_text('{"short": ')
    assert opened(folders).rows == {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(store.path))  # a file
    blocked = opened(folders)
    blocked.get("short", dict)
    blocked.save()


def test_old_files_go(tmp_path: Path) -> None:
    for i in range(NUM_KEPT + 5):
        store = opened(conf(tmp_path / "conf", f"num_stages: {i}\n"))
        store.get("short", dict)
        store.save()
        assert store.path is not None
        os.utime(store.path, (i, i))
    assert len(list(cache_folder().glob("*.json"))) <= NUM_KEPT + 1
    assert store.path.exists()


def test_a_command_finds_the_same_rows_with_and_without_the_file(tmp_path: Path) -> None:
    code = (
        "import json; from experiments.config.rows import *; c = compose_row('mini', 'stages_1', ['seed=3']); "
        "c['experiment_name'] = 'mine'; print(json.dumps(experiments_of(c)))"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True) for _ in range(2)]
    assert json.loads(runs[0].stdout) == json.loads(runs[1].stdout) == {"stages_1": []}
    (file,) = cache_folder().glob("*.json")
    kept = json.loads(file.read_bytes())
    assert kept["stages_1"]["config"]["num_stages"] == 1
