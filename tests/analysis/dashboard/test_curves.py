"""The dashboard's curves: few points, over the time of work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.dashboard.curves import downsample
from tests.support.dashboard_rows import row_of
from tests.support.runs import START, event, make_logged_run


def test_means_of_stretches() -> None:
    columns = {"step": list(range(10)), "loss": [0, 2, 4, 6, None, 10, 1, 1, None, None]}
    thin = downsample(columns, 5)
    assert thin == {"step": [0.5, 2.5, 4.5, 6.5, 8.5], "loss": [1, 5, 10, 1, None]}
    assert downsample(columns, 10) == columns


@pytest.mark.parametrize("num_rows", [0, 1, 199, 200, 201, 399, 12345])
def test_no_more_than_200_points_and_no_row_lost(num_rows: int) -> None:
    column = [float(i) for i in range(num_rows)]
    thin = downsample({"step": column})["step"]
    assert len(thin) == min(num_rows, 200)
    assert thin == sorted(thin)
    if num_rows % 200 == 0 and num_rows:
        assert np.mean(thin) == pytest.approx(np.mean(column))


def test_steps_repeated_after_a_resume(tmp_path: Path) -> None:
    resumed = "2026-01-01T01:00:00+00:00"
    path = make_logged_run(tmp_path, state="interrupted", meta={"resumes": [{"resumed_at": resumed}]})
    with (path / "metrics.jsonl").open("a") as file:
        for step in (140, 150, 160):
            file.write(event("train", step, {"train/loss/total": 1.0}, START + 3600 + step - 130))
    row = row_of(path)
    assert row["train"]["step"][-4:] == [130, 140, 150, 160]
    # From 130 to 140 lies the hour; the evaluation at 150 was not repeated and keeps its time before it.
    assert row["train"]["seconds"][-4:-2] == [130, 140]
    assert row["seconds"] < 250
