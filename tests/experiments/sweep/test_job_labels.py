"""Short names of a sweep's jobs."""

from __future__ import annotations

from experiments.sweep.job_labels import job_names


def test_names_of_jobs_tell_them_apart() -> None:
    assert job_names([["a=1", "b=2"], ["a=1", "b=3"]]) == ["b=2", "b=3"]
    assert job_names([["a=1", "b=2"]]) == ["a=1 b=2"]
