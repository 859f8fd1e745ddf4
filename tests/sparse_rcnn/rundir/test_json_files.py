"""JSON files are whole or as they were, and hold what JSON can."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.errors import RunError, UserError
from sparse_rcnn.rundir.json_files import read_object, read_sealed_object, write_json_atomic, write_sealed_json
from tests.support.damage import flip
from tests.support.paths import names


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failing_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a" / "x.json"
    write_json_atomic(path, {"old": 1})
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(UserError, match=r"cannot write .*x\.json: No space left on device"):
        write_json_atomic(path, {"new": 1})
    assert names(path.parent) == ["x.json"]
    assert json.loads(path.read_text()) == {"old": 1}


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / "x.json"
    write_json_atomic(
        path, {"a": float("nan"), "b": [np.float32(0.5), np.float64("inf")], "c": np.arange(2), "d": tmp_path}
    )
    assert json.loads(path.read_text()) == {"a": None, "b": [0.5, None], "c": [0, 1], "d": str(tmp_path)}


RESULTS = {"val/bbox/AP": 0.25, "val/bbox/APs": float("nan"), "names": ["Zelle é", 'a "quoted": "name"'], "n": {"a": 1}}


def test_a_sealed_object_comes_back_without_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_sealed_json(path, RESULTS)
    assert read_sealed_object(path) == {**RESULTS, "val/bbox/APs": None}
    assert list(read_object(path)) == [*RESULTS, "sha256"]
    assert len(read_object(path)["sha256"]) == 64
    write_json_atomic(path, RESULTS)  # as older programs do
    assert read_sealed_object(path) == {**RESULTS, "val/bbox/APs": None}


@pytest.mark.parametrize("value", [RESULTS, {}], ids=["results", "empty"])
def test_every_flipped_bit_of_a_sealed_object_is_found(tmp_path: Path, value: dict[str, Any]) -> None:
    path = tmp_path / "results.json"
    write_sealed_json(path, value)
    for bit in range(8 * path.stat().st_size):
        with flip(path, bit), pytest.raises(RunError, match=r"^\S*results\.json "):
            read_sealed_object(path)
    assert read_sealed_object(path).keys() == value.keys()


def test_a_sealed_object_that_was_edited_or_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_sealed_json(path, RESULTS)
    whole = path.read_text()
    path.write_text(whole.replace("0.25", "0.75"))
    with pytest.raises(
        RunError, match=r"results\.json has another content than was written: .*; restore it from a copy$"
    ):
        read_sealed_object(path)
    for length in range(len(whole.encode()) - 2):
        path.write_bytes(whole.encode()[:length])
        with pytest.raises(RunError, match=r"results\.json is not valid JSON"):
            read_sealed_object(path)
