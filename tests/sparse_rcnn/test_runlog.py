"""metrics.jsonl: one event a line, whatever happens to the process or the disk."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sparse_rcnn.errors import UserError
from sparse_rcnn.runlog import JsonlWriter


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_an_event_is_a_line_that_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.log("train", 10, 0.08, {"train/loss/total": 21.5})
    row = json.loads(path.read_text())
    assert path.read_text().endswith("\n")
    assert row.pop("time") > 1.7e9
    assert row == {"event": "train", "step": 10, "epoch": 0.08, "metrics": {"train/loss/total": 21.5}}
    writer.close()


def test_numbers_read_back_exactly_and_what_is_none_is_null(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path / "metrics.jsonl")
    writer.log("train", 1, 1 / 3, {"a": 0.1 + 0.2, "b": math.nan, "c": -math.inf, "d": 3})
    writer.close()
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert row["metrics"] == {"a": 0.1 + 0.2, "b": None, "c": None, "d": 3}
    assert row["epoch"] == 0.333333


@pytest.mark.parametrize("torn", ['{"event": "tr', '{"event": "train", "step": 2}'])
def test_a_torn_line_never_swallows_the_next(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "train", "step": 1}\n' + torn)
    writer = JsonlWriter(path)
    writer.log("train", 2, 0.0, {})
    writer.close()
    first, middle, last = lines(path)
    assert (first, middle) == ('{"event": "train", "step": 1}', torn)
    assert json.loads(last)["step"] == 2


def test_opening_again_appends_and_adds_no_empty_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        writer = JsonlWriter(path)
        writer.log("train", step, 0.0, {})
        writer.close()
    assert [json.loads(line)["step"] for line in lines(path)] == [1, 2]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*nowhere/metrics.jsonl: No such file or directory"):
        JsonlWriter(tmp_path / "nowhere" / "metrics.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_is_named_in_writing_and_in_closing() -> None:
    writer = JsonlWriter(Path("/dev/full"))
    for write in (lambda: writer.log("train", 1, 0.0, {"a": 1.0}), writer.close):
        with pytest.raises(UserError, match=r"^cannot write /dev/full: No space left on device$"):
            write()
