"""JSON files are whole or as they were, and hold what JSON can."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sparse_rcnn.errors import UserError
from sparse_rcnn.rundir.json_files import write_json_atomic
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
