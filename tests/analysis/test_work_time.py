"""The time of work, without interruptions."""

from __future__ import annotations

from analysis.work_time import resume_moments, wall_seconds
from tests.support.runs import START


def test_time_without_interruptions() -> None:
    times = [10.0, 20.0, 30.0, 1000.0, 1010.0]
    assert wall_seconds(times, 5.0, []) == [5, 15, 25, 995, 1005]  # a long evaluation is work
    assert wall_seconds(times, 5.0, [990.0]) == [5, 15, 25, 35, 45]  # a resume: one usual gap
    assert wall_seconds([10.0, 20.0, 30.0, 5000.0], 5.0, []) == [5, 15, 25, 35]  # more than half an hour
    assert wall_seconds([10.0, None, 8.0, 20.0], None, []) == [12, None, 12, 24]
    assert wall_seconds([], None, []) == []


def test_moments_of_resumes() -> None:
    assert resume_moments({"resumes": [{"resumed_at": "2026-01-01T00:00:00+00:00"}, {}, 3]}) == [START]
    assert resume_moments({}) == resume_moments({"resumes": "none"}) == []
